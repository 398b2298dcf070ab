//! Servers that are broken on purpose: a checker that has caught nothing proves nothing.
//!
//! A mutant is some text in the server's sources and what to put in its place. The tree is
//! copied, changed and built there; the product has no hooks. Then a real run has to show that
//! the rule is broken.

mod several;
mod single;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use several::OF_SEVERAL;
use single::MUTANTS;

use crate::rules::Rule;

/// How often a run is tried: some faults meet a mutant by chance.
const ATTEMPTS: u32 = 8;

/// Names a part of a mutant's name, to run that one only.
const ONLY: &str = "RDLM_TORTURE_MUTANT";

struct Edit {
    file: &'static str,
    /// Occurs once in the file.
    text: &'static str,
    replacement: &'static str,
}

const fn edit(file: &'static str, text: &'static str, replacement: &'static str) -> Edit {
    Edit { file, text, replacement }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Changes the copy of the tree; says what does not fit.
fn apply(edits: &[Edit], tree: &Path) -> Result<(), String> {
    for Edit { file, text, replacement } in edits {
        let path = tree.join(file);
        let source = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let found = source.matches(text).count();
        if found != 1 {
            return Err(format!("{text:?} is {found} times in {file}"));
        }
        fs::write(path, source.replace(text, replacement)).unwrap();
    }
    Ok(())
}

fn revert(edits: &[Edit], tree: &Path) {
    for edit in edits {
        fs::copy(root().join(edit.file), tree.join(edit.file)).unwrap();
    }
}

/// Copies what git knows of, as it is now.
fn copy_tree(to: &Path) {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let listed = listed.expect("git lists the files of the tree");
    assert!(listed.status.success(), "git cannot list the files of the tree");
    for file in String::from_utf8(listed.stdout).unwrap().split_terminator('\0') {
        let target = to.join(file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        // It may be deleted and not committed.
        let _ = fs::copy(root().join(file), target);
    }
}

/// Has Cargo do something in the tree. An error is what it said; warnings, which a mutant may well
/// have, are not shown.
fn cargo(tree: &Path, command: &[&str], args: &[&str]) -> Result<(), String> {
    let output = Command::new(env!("CARGO"))
        .args(command)
        .args(["--quiet", "--locked"])
        .args(args)
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", tree.join("target"))
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .unwrap();
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or_else(said)
}

/// A mutant that does not compile has not been caught.
fn compile(tree: &Path, command: &[&str], args: &[&str]) -> Result<(), String> {
    cargo(tree, command, args).map_err(|said| format!("does not compile: {said}"))
}

fn build(tree: &Path) -> Result<PathBuf, String> {
    compile(tree, &["build"], &["--bin", "rdlm"])?;
    let dirs = fs::read_dir(tree.join("target")).unwrap();
    let mut built = dirs.map(|dir| dir.unwrap().path().join("debug/rdlm"));
    Ok(built.find(|path| path.exists()).expect("the mutant's binary"))
}

/// Changes a copy of the tree by one after the other, and runs there what has to catch it.
fn catch_each<Run: Fn(&Path) -> Result<String, String>>(
    mutants: impl Iterator<Item = (&'static str, &'static [Edit], Run)>,
) {
    let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("torture-mutants");
    copy_tree(&tree);
    let only = env::var(ONLY).unwrap_or_default();
    let mut missed = 0;
    for (name, edits, run) in mutants.filter(|(name, ..)| name.contains(&only)) {
        apply(edits, &tree).unwrap();
        let result = run(&tree);
        revert(edits, &tree);
        missed += u32::from(result.is_err());
        println!("mutant: {name}: {}", result.unwrap_or_else(|missed| missed));
    }
    assert_eq!(missed, 0, "mutants were not caught");
}

#[test]
fn every_mutant_still_fits_the_sources() {
    let one = MUTANTS.iter().map(|mutant| (mutant.name, mutant.edits));
    let several = OF_SEVERAL.iter().map(|mutant| (mutant.name, mutant.edits));
    for (name, edits) in one.chain(several) {
        for Edit { file, text, .. } in edits {
            let source = fs::read_to_string(root().join(file)).unwrap();
            assert_eq!(source.matches(text).count(), 1, "{name}: {text:?} in {file}");
        }
    }
    for (rule, _) in Rule::ALL {
        assert!(MUTANTS.iter().any(|mutant| mutant.rule == rule), "{rule} has no mutant");
    }
}

#[test]
#[ignore = "long; make torture runs it"]
fn every_mutant_is_caught() {
    catch_each(MUTANTS.iter().map(|mutant| {
        let run = |tree: &Path| mutant.run(&build(tree)?);
        (mutant.name, mutant.edits, run)
    }));
}

#[test]
#[ignore = "long; make torture-ha runs it"]
fn each_mutant_of_several_servers_is_caught() {
    catch_each(OF_SEVERAL.iter().map(|mutant| {
        let run = |tree: &Path| mutant.run(tree);
        (mutant.name, mutant.edits, run)
    }));
}
