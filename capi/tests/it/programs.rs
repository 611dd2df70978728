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
    if has("cc") {
        for program in compile_all("plain", &[]).programs() {
            succeeds(&mut run(&program));
        }
    }
}

/// Their own mistakes, and what they are given back.
#[test]
fn the_programs_are_clean_under_address_and_undefined_behaviour_sanitizers() {
    if has("cc") {
        let sanitizers = [
            "-g",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
        ];
        for program in compile_all("sanitized", &sanitizers).programs() {
            succeeds(&mut run(&program));
        }
    }
}

/// The library's memory as well, with a peer that is killed. What `std` keeps of a thread for as long as the process
/// lives is reachable from its inside only, and counts as possibly lost.
#[test]
fn the_programs_lose_no_memory_and_touch_none_that_is_not_theirs() {
    if has("cc") && has("valgrind") {
        for program in compile_all("watched", &["-g"]).programs() {
            let mut command = Command::new("timeout");
            command
                .args(["180", "valgrind", "--quiet", "--error-exitcode=9"])
                .args(["--leak-check=full", "--show-leak-kinds=definite"])
                .arg("--errors-for-leak-kinds=definite")
                .arg(program);
            succeeds(with_library(&mut command));
        }
    }
}

/// Programs in a folder of their own, which goes with this.
struct Compiled(PathBuf);

impl Compiled {
    /// Those that need no arguments.
    fn programs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let names = PROGRAMS.iter().filter(|name| **name != "master");
        names.map(|name| self.0.join(name))
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn compile_all(name: &str, flags: &[&str]) -> Compiled {
    let place = std::env::temp_dir().join(format!("pccl-capi-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&place).expect("a folder");
    let compiled = Compiled(place);
    for program in PROGRAMS {
        succeeds(
            compiler("cc", "-std=c99")
                .args(flags)
                .arg("-o")
                .arg(compiled.0.join(program))
                .arg(folder().join(format!("examples/{program}.c")))
                .arg(library::path())
                .arg("-pthread"),
        );
    }
    compiled
}

fn run(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    with_library(command.arg("60").arg(program));
    command
}

/// It is found by its SONAME.
fn with_library(command: &mut Command) -> &mut Command {
    let folder = library::path().parent().expect("a folder");
    // No master here has peers of one before it to wait for.
    command.env("PCCL_RECOVERY_WINDOW_MS", "0");
    command.env("LD_LIBRARY_PATH", folder)
}
