//! Links between the documents lead to files, and to headings, that exist.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::documents::text_of;

/// All Markdown files of the repository, without what builds leave behind.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            let is_built = ["target", "node_modules"].contains(&name.as_ref());
            if !is_built && !name.starts_with('.') {
                documents(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// The text outside of fenced blocks.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose
}

/// The targets of inline links and images.
fn targets(text: &str) -> Vec<String> {
    let prose = prose(text);
    let parts = prose.split("](").skip(1);
    parts
        .filter_map(|part| Some(part.split_once(')')?.0.to_owned()))
        .collect()
}

/// The anchors of the headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter_map(|c| match c {
                ' ' => Some('-'),
                '-' | '_' => Some(c),
                c => c.is_alphanumeric().then_some(c),
            });
            kept.collect()
        })
        .collect()
}

/// What is wrong with a link in this document, if something is.
fn fault(document: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = match path {
        "" => document.to_owned(),
        path => document.parent().expect("a folder").join(path),
    };
    if !file.exists() {
        return Some(format!("{}: no file {target}", document.display()));
    }
    let known =
        anchor.is_empty() || anchors(&text_of(&file.to_string_lossy())).contains(&anchor.into());
    (!known).then(|| format!("{}: no heading {target}", document.display()))
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut all = Vec::new();
    documents(Path::new("."), &mut all);
    let mut links = 0;
    let mut faults = Vec::new();
    for document in &all {
        for target in targets(&text_of(&document.to_string_lossy())) {
            links += 1;
            faults.extend(fault(document, &target));
        }
    }
    assert!(links >= 40, "only {links} links were looked at");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
