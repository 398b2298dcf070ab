//! The recipes do what they say, pasted as they stand.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::Server;
use crate::needed;
use crate::python;

/// Airflow and Celery as far as the recipes need them: their tasks are plain functions.
const STAND_INS: &str = r"
import sys, types

def decorator(**options):
    return lambda function: function

sys.modules['airflow'] = types.ModuleType('airflow')
sys.modules['airflow.sdk'] = types.SimpleNamespace(dag=decorator, task=decorator)
class Celery:
    def __init__(self, name, broker): self.task = decorator
sys.modules['celery'] = types.SimpleNamespace(Celery=Celery)
";

/// The blocks of one language in a part of the page.
fn blocks<'a>(part: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    part.split(&*begin).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_recipe_prints_what_the_page_says_and_leaves_nothing_behind() {
    if !needed::are_installed(&["bash", "curl", "sqlite3"]) {
        return;
    }
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/recipes.md");
    let page = fs::read_to_string(page).unwrap();
    let mut parts = page.split("\n## ");
    let function = blocks(parts.next().unwrap(), "sh").concat();
    let server = Server::start();
    let recipes: Vec<_> = parts.collect();
    assert_eq!(recipes.len(), 7);
    for recipe in recipes {
        let name = recipe.lines().next().unwrap();
        if name.starts_with("Python") && python::recent().is_none() {
            continue;
        }
        let dir = TempDir::new().unwrap();
        let script = function.clone() + &blocks(recipe, "sh").concat();
        let run = Command::new("bash")
            .args(["-c", &script])
            .current_dir(dir.path())
            .env("RDLM", format!("http://127.0.0.1:{}", server.port()))
            // As if it were installed.
            .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        let printed = String::from_utf8(run.stdout).unwrap();
        let errors = String::from_utf8(run.stderr).unwrap();
        assert_eq!(printed, blocks(recipe, "text").concat(), "{name}: {errors}");
        assert_eq!((run.status.code(), errors.as_str()), (Some(0), ""), "{name}");
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap()).collect();
        assert!(files.is_empty(), "{name}: {files:?}");
        let resources = server.get("/resources").json();
        assert_eq!(resources["_embedded"]["resources"].to_string(), "[]", "{name}");
    }
}

#[test]
fn the_tasks_of_airflow_and_celery_run_under_their_locks() {
    let Some(python) = python::recent() else { return };
    let page = include_str!("../docs/integrations.md");
    let server = Server::start();
    let script = STAND_INS.to_string() + &blocks(page, "python").concat() + "rebuild('acme')";
    let run = Command::new(python)
        .args(["-c", &script])
        .env("RDLM_URL", format!("http://127.0.0.1:{}", server.port()))
        .env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let errors = String::from_utf8(run.stderr).unwrap();
    assert_eq!(errors, "");
    assert_eq!(String::from_utf8(run.stdout).unwrap(), "loading {{ ds }}\nrebuilding acme\n");
    let metrics = server.get("/metrics");
    let two = "rdlm_acquisitions_total{outcome=\"granted\"} 2\n";
    assert!(metrics.text().contains(two), "{}", metrics.text());
}
