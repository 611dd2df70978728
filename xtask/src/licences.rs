//! Every crate that is built, under a licence that `deny.toml` allows and from crates.io or here.
//!
//! `cargo deny check licenses sources` reads the same file and says the same; this needs no tool
//! that would have to be built first, so the check is never skipped.

use std::collections::BTreeSet;
use std::fs;

use serde::Deserialize;

use crate::part::cargo;
use crate::spdx;
use crate::workspace_root;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// None for members of the workspace.
    source: Option<String>,
}

pub(crate) fn check() -> Result<(), String> {
    let path = workspace_root().join("deny.toml");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let allowed = allow_list(&text)?;
    let packages = metadata()?.packages;
    let complaints: Vec<String> = packages
        .iter()
        .filter_map(|package| complaint(package, &allowed))
        .collect();
    if complaints.is_empty() {
        eprintln!("{} crates, all allowed", packages.len());
        Ok(())
    } else {
        Err(format!("\n  {}", complaints.join("\n  ")))
    }
}

/// What is built on Linux: crates for other systems are listed in the lock file, never used.
fn metadata() -> Result<Metadata, String> {
    let output = cargo("metadata --locked --format-version 1")
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .args(["--filter-platform", "aarch64-unknown-linux-gnu"])
        .output()
        .map_err(|error| format!("cannot start cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}

fn complaint(package: &Package, allowed: &BTreeSet<String>) -> Option<String> {
    let name = format!("{} {}", package.name, package.version);
    if let Some(source) = package.source.as_deref().filter(|s| *s != CRATES_IO) {
        return Some(format!("{name}: comes from {source}, not from crates.io"));
    }
    let Some(license) = &package.license else {
        return Some(format!("{name}: names no licence"));
    };
    match spdx::is_allowed(license, allowed) {
        Ok(true) => None,
        Ok(false) => Some(format!("{name}: {license} is not on the list in deny.toml")),
        Err(reason) => Some(format!("{name}: cannot read `{license}`: {reason}")),
    }
}

/// The strings of `allow = [ ... ]` under `[licenses]`: one a line, comments after them.
///
/// A whole TOML reader for one list would be a dependency more to check.
fn allow_list(toml: &str) -> Result<BTreeSet<String>, String> {
    let list = toml
        .split_once("[licenses]")
        .and_then(|(_, section)| section.split_once("allow = ["))
        .and_then(|(_, list)| list.split_once("\n]"))
        .map(|(list, _)| list)
        .ok_or("deny.toml has no `allow = [` under [licenses]")?;
    Ok(list
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once('"'))
        .map(|(id, _)| id.to_owned())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(license: Option<&str>, source: Option<&str>) -> Package {
        Package {
            name: "some".to_owned(),
            version: "1.0.0".to_owned(),
            license: license.map(str::to_owned),
            source: source.map(str::to_owned),
        }
    }

    #[test]
    fn allow_list_is_read_past_its_comments() {
        let toml = "[sources]\nx = []\n[licenses]\nallow = [\n  \"MIT\", # ours\n  # \"GPL-3.0\"\n  \"ISC\",\n]\n\"no\"";
        let allowed = allow_list(toml).expect("a list");
        assert_eq!(
            allowed,
            BTreeSet::from(["MIT".to_owned(), "ISC".to_owned()])
        );
    }

    #[test]
    fn crates_from_elsewhere_are_named() {
        let allowed = BTreeSet::from(["MIT".to_owned()]);
        assert_eq!(
            complaint(&package(Some("MIT"), Some(CRATES_IO)), &allowed),
            None
        );
        assert_eq!(complaint(&package(Some("MIT"), None), &allowed), None);
        let git = package(Some("MIT"), Some("git+https://example.org/some"));
        assert!(complaint(&git, &allowed).is_some_and(|text| text.contains("git+https")));
    }

    #[test]
    fn crates_without_an_allowed_licence_are_named() {
        let allowed = BTreeSet::from(["MIT".to_owned()]);
        assert!(complaint(&package(None, None), &allowed).is_some());
        let copyleft = complaint(&package(Some("GPL-3.0"), None), &allowed);
        assert!(copyleft.is_some_and(|text| text.contains("GPL-3.0")));
    }
}
