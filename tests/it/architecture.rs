//! The layers of the source: imports point downwards only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The layers from top to bottom; a module may use only lower layers and its own submodules.
const LAYERS: [&[&str]; 9] = [
    &["main"],
    &["cli"],
    &["run", "server"],
    &["client", "config"],
    &["http"],
    &["service"],
    &["auth", "store"],
    &["lock", "telemetry"],
    &["random", "secret"],
];

#[test]
fn imports_point_down_only() {
    let level = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let mut upward = Vec::new();
    for (file, source) in sources() {
        let module = top_module(&file);
        let own = level(&module).unwrap_or_else(|| panic!("{module} has no layer"));
        for used in used_modules(&source)
            .into_iter()
            .filter(|used| *used != module)
        {
            match level(&used) {
                Some(below) if below > own => {}
                _ => upward.push(format!("{} uses crate::{used}", file.display())),
            }
        }
    }
    assert!(upward.is_empty(), "{upward:#?}");
}

#[test]
fn modules_have_no_cycles() {
    let mut uses: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (file, source) in sources() {
        let own = module_path(&file);
        let lines = source.lines().map(str::trim);
        let imports = lines.filter_map(|line| resolve(&own, line)).collect();
        uses.insert(own, imports);
    }
    // An import names an item of a module: the module is the longest known prefix of its path.
    let modules: BTreeSet<Vec<String>> = uses.keys().cloned().collect();
    let known = |path: &[String]| {
        (1..=path.len())
            .rev()
            .find_map(|end| modules.get(&path[..end]).cloned())
    };
    for module in &modules {
        let step = |from: &Vec<String>| -> Vec<Vec<String>> {
            uses[from]
                .iter()
                .filter_map(|path| known(path))
                .filter(|to| to != from)
                .collect()
        };
        let mut reached = BTreeSet::new();
        let mut open = step(module);
        while let Some(next) = open.pop() {
            if reached.insert(next.clone()) {
                open.extend(step(&next));
            }
        }
        assert!(
            !reached.contains(module),
            "{} is used by what it uses",
            module.join("::")
        );
    }
}

/// The rooms of the Redis store from top to bottom; a room imports from lower rooms only.
const ROOMS: [&str; 10] = [
    "pipeline",
    "master",
    "events",
    "listing",
    "errors",
    "scripts",
    "connection",
    "options",
    "tls",
    "lease_stats",
];

#[test]
fn rooms_of_the_redis_store_import_downwards() {
    let level = |room: &str| ROOMS.iter().position(|known| *known == room);
    let mut checked = 0;
    for (file, source) in sources() {
        let Ok(inside) = file.strip_prefix("store/redis") else {
            continue;
        };
        let room = top_module(inside);
        if room == "mod" {
            continue;
        }
        let own = level(&room).unwrap_or_else(|| panic!("{room} has no level"));
        for (at, found) in source.match_indices("crate::store::redis::") {
            let used: String = source[at + found.len()..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            let below = level(&used);
            let is_allowed = used == room || below.is_some_and(|below| below > own);
            assert!(is_allowed, "{} uses {used}", file.display());
            checked += 1;
        }
    }
    assert!(checked > 20, "{checked}");
}

/// The path of an import, relative to the crate's root.
fn resolve(own: &[String], line: &str) -> Option<Vec<String>> {
    let line = line
        .trim_start_matches("pub ")
        .strip_prefix("use ")?
        .trim_end_matches(';');
    let mut base = match line.split("::").next()? {
        "crate" => Vec::new(),
        "super" => own[..own.len() - 1].to_vec(),
        "self" => own.to_vec(),
        _ => return None,
    };
    let rest = line
        .split("::")
        .skip(1)
        .map(str::trim)
        .take_while(|part| !part.starts_with('{'));
    base.extend(rest.map(str::to_owned));
    Some(base)
}

#[test]
fn each_layer_uses_only_the_layers_it_may_use() {
    let forbidden: [(&str, &[&str]); 4] = [
        (
            "lock",
            &[
                "axum",
                "redis::",
                "tokio",
                "SystemTime",
                "Instant::now",
                "http::",
            ],
        ),
        ("service", &["axum", "redis::", "StatusCode"]),
        ("http", &["redis::", "dyn Store"]),
        ("store", &["axum", "StatusCode"]),
    ];
    let mut found = Vec::new();
    for (file, source) in sources() {
        let module = top_module(&file);
        let words = forbidden
            .iter()
            .filter(|(name, _)| *name == module)
            .flat_map(|(_, words)| words.iter());
        for word in words {
            let lines = source
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            found.extend(
                lines
                    .filter(|line| line.contains(word))
                    .map(|line| format!("{}: {line}", file.display())),
            );
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// The compiler and clippy reject guards of the standard library across an await. They accept asynchronous locks, such
/// as Tokio's.
#[test]
fn memory_store_holds_no_lock_across_an_await() {
    let sources = sources();
    let source = sources
        .iter()
        .find(|(file, _)| file.ends_with("store/memory.rs"));
    let (_, source) = source.expect("the memory store");
    assert!(source.contains("use std::sync::{Mutex, MutexGuard};"));
    assert!(source.contains("    state: Mutex<State>,"));
    let functions: Vec<_> = source.split("fn ").skip(1).collect();
    let touches = |function: &str| {
        ["self.state", "self.change"]
            .iter()
            .any(|use_of| function.contains(use_of))
    };
    assert!(functions.iter().filter(|body| touches(body)).count() > 5);
    for function in functions {
        let name = function.split('(').next().unwrap_or_default();
        assert!(
            !(touches(function) && function.contains(".await")),
            "{name} of the memory store awaits something, and uses the locks"
        );
    }
}

#[test]
fn one_module_assigns_the_statuses_of_refusals() {
    let numbers = [
        "StatusCode::BAD_REQUEST",
        "StatusCode::CONFLICT",
        "StatusCode::LOCKED",
        "StatusCode::FORBIDDEN",
    ];
    for (file, source) in sources() {
        let has_one = numbers.iter().any(|number| source.contains(number));
        assert!(
            !has_one || file.starts_with("http/problem"),
            "{} names a status",
            file.display()
        );
    }
}

#[test]
fn top_level_has_no_other_entries() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "CHANGELOG.md",
        "Dockerfile",
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "SECURITY.md",
        "deny.toml",
        "helm",
        "openapi",
        "src",
        "target",
        "tests",
    ];
    let entries = fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("the project's folder");
    for entry in entries {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("UTF-8");
        assert!(
            name.starts_with('.') || allowed.contains(&name.as_str()),
            "{name} stands at the top level"
        );
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && !path.ends_with("src/lib.rs")
            {
                let source = fs::read_to_string(&path).expect("UTF-8");
                // Imports of a module's own tests do not count.
                let source = source
                    .split("#[cfg(test)]")
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                files.push((
                    path.strip_prefix(&root).expect("below src").to_owned(),
                    source,
                ));
            }
        }
    }
    assert!(files.len() > 20, "the source was not found");
    files
}

/// `http` for `http/wire.rs`, `cli` for `cli.rs`.
fn top_module(file: &Path) -> String {
    let first = file
        .components()
        .next()
        .expect("a name")
        .as_os_str()
        .to_str()
        .expect("UTF-8");
    first.trim_end_matches(".rs").to_owned()
}

/// `http::wire` for `http/wire.rs`, `http` for `http/mod.rs`.
fn module_path(file: &Path) -> Vec<String> {
    let text = file.with_extension("");
    let parts = text
        .iter()
        .map(|part| part.to_str().expect("UTF-8").to_owned());
    parts.filter(|part| part != "mod").collect()
}

fn used_modules(source: &str) -> BTreeSet<String> {
    let code = source
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut used = BTreeSet::new();
    for line in code {
        for (_, rest) in line
            .match_indices("crate::")
            .map(|(at, found)| (at, &line[at + found.len()..]))
        {
            let names = match rest.strip_prefix('{') {
                Some(list) => list.trim_end_matches([';', '}']).split(',').collect(),
                None => vec![rest],
            };
            let name = |text: &str| {
                text.trim()
                    .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .next()
                    .map(str::to_owned)
            };
            used.extend(
                names
                    .into_iter()
                    .filter_map(name)
                    .filter(|name| !name.is_empty()),
            );
        }
    }
    used
}
