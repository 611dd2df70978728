//! The header and the programs in C, compiled as strictly as their users may, and run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::library;

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
const PROGRAMS: [&str; 4] = ["hello", "master", "async_reduce", "train_loop"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// False where it is not installed, which CI does not let pass.
fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        println!("skipped: needs {tool}");
        let is_required = std::env::var_os("PCCL_TEST_REQUIRE_ALL").is_some();
        assert!(!is_required, "{tool} is not installed");
    }
    found
}

fn succeeds(command: &mut Command) {
    let output = command.output().expect("it starts");
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}: {said}{complained}");
}

fn compiler(tool: &str, standard: &str) -> Command {
    let mut command = Command::new(tool);
    command
        .arg(standard)
        .args(STRICT)
        .arg("-I")
        .arg(folder().join("include"));
    command
}

#[test]
fn the_header_has_the_sizes_places_and_values_of_pccl_in_c99_and_in_cpp17() {
    let check = folder().join("tests/header.c");
    if has("cc") {
        succeeds(compiler("cc", "-std=c99").arg("-fsyntax-only").arg(&check));
    }
    if has("c++") {
        succeeds(
            compiler("c++", "-std=c++17")
                .args(["-fsyntax-only", "-x", "c++"])
                .arg(&check),
        );
    }
}

#[test]
fn the_programs_are_also_cpp17() {
    if has("c++") {
        for name in PROGRAMS {
            let source = folder().join(format!("examples/{name}.c"));
            succeeds(
                compiler("c++", "-std=c++17")
                    .args(["-fsyntax-only", "-x", "c++"])
                    .arg(source),
            );
        }
    }
}

#[test]
fn the_programs_are_c99_and_do_what_they_say() {
    if !has("cc") {
        return;
    }
    let place = std::env::temp_dir().join(format!("pccl-capi-{}", std::process::id()));
    std::fs::create_dir_all(&place).expect("a folder");
    let programs = PROGRAMS.map(|name| compile(name, &place));
    for program in &programs {
        // `master` without arguments says how it is used; the others need none.
        if program.ends_with("master") {
            continue;
        }
        succeeds(&mut run(program));
    }
    std::fs::remove_dir_all(&place).expect("removed");
}

fn compile(name: &str, place: &Path) -> PathBuf {
    let program = place.join(name);
    let library = library::path();
    succeeds(
        compiler("cc", "-std=c99")
            .arg("-o")
            .arg(&program)
            .arg(folder().join(format!("examples/{name}.c")))
            .arg(library)
            .arg("-pthread"),
    );
    program
}

/// It finds the library by its SONAME.
fn run(program: &Path) -> Command {
    let library = library::path();
    let mut command = Command::new("timeout");
    command
        .arg("60")
        .arg(program)
        .env("LD_LIBRARY_PATH", library.parent().expect("a folder"));
    command
}
