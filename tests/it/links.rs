//! Links between documents lead to existing files and headings, and the lines of documents are short.

mod markdown;

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use tempfile::TempDir;

use self::markdown::{Document, length_without_links, links};

/// The longest line of a document, in characters, without its links.
const MAX_LINE: usize = 120;

/// Lists what changed in one line each, however long.
const CHANGELOG: &str = "CHANGELOG.md";

/// The problems of the documents below `root`, one line each.
fn faults(root: &Path) -> Vec<String> {
    let documents: HashMap<_, _> = markdown_files(root)
        .into_iter()
        .map(|path| (path.clone(), Document::read(&path)))
        .collect();
    let mut faults = Vec::new();
    for (path, document) in &documents {
        let name = path.strip_prefix(root).expect("below the root").display();
        for (number, line) in &document.lines {
            for link in links(line) {
                if let Err(fault) = follow(root, path, &documents, &link) {
                    faults.push(format!("{name}:{number}: {link}: {fault}"));
                }
            }
            let length = length_without_links(line);
            if length > MAX_LINE
                && !line.trim_start().starts_with('|')
                && !path.ends_with(CHANGELOG)
            {
                faults.push(format!("{name}:{number}: {length} characters"));
            }
        }
    }
    faults.sort();
    faults
}

fn follow(
    root: &Path,
    from: &Path,
    documents: &HashMap<PathBuf, Document>,
    link: &str,
) -> Result<(), &'static str> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(());
    }
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, Some(anchor)),
        None => (link, None),
    };
    let target = match path.strip_prefix('/') {
        Some(at_root) => normal(&root.join(at_root)),
        None if path.is_empty() => from.to_owned(),
        None => normal(&from.parent().expect("a folder").join(path)),
    };
    if !target.starts_with(root) {
        return Err("leads out of the tree");
    }
    if !target.exists() {
        return Err("there is no such file");
    }
    match (anchor, documents.get(&target)) {
        (None, _) => Ok(()),
        (Some(_), None) => Err("an anchor in what is no document"),
        (Some(anchor), Some(document)) if document.anchors.contains(anchor) => Ok(()),
        (Some(_), Some(_)) => Err("there is no such heading"),
    }
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

fn markdown_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str());
            let is_ours = name.is_some_and(|name| !name.starts_with('.') && name != "target");
            if path.is_dir() && is_ours {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn documents_have_valid_links_and_short_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(
        markdown_files(root).len() > 5,
        "the documents were not found"
    );
    let faults = faults(root);
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn broken_links_and_long_lines_are_found() {
    let folder = TempDir::new().expect("a folder");
    let root = folder.path();
    fs::create_dir(root.join("below")).expect("a folder");
    let write = |name: &str, text: &str| fs::write(root.join(name), text).expect("written");
    let long = "x".repeat(MAX_LINE + 1);
    write("figure.svg", "");
    write(CHANGELOG, &long);
    write(
        "good.md",
        &format!(
            "# What it is: `GET /`, and [a link](below/other.md)\n## Twice\n## Twice\n<a id=\"own\"></a>\n\
             [here](#what-it-is-get--and-a-link) [again](#twice-1) [own](#own) [![figure](figure.svg)](below/)\n\
             [other](below/other.md#größe_und-höhe) [root](/good.md) [far](https://example.com/#x)\n\
             `[code](nowhere.md)`\n```md\n[block](nowhere.md) {long}\n```\n| {long} |\n\
             {} [long link](below/../figure.svg)\n[reference]: below/other.md\n",
            "x".repeat(MAX_LINE - " [long link]()".len()),
        ),
    );
    write(
        "below/other.md",
        "## Größe_und Höhe\n[up](../good.md#twice)\n",
    );
    assert_eq!(faults(root), [""; 0]);

    write(
        "below/bad.md",
        &format!(
            "# A heading\n[a](missing.md)\n[b](#a-header)\n[c](../good.md#twice-2)\n[d](../../outside.md)\n\
             [e](../figure.svg#part)\n![f](missing.svg)\n<img src=\"missing.png\">\n[g]: missing.txt\n{long}\n\
             ````\n```\n[hidden](missing.md)\n````\n[h](other.md) [i](other.md#none)\n"
        ),
    );
    assert_eq!(
        faults(root),
        [
            "below/bad.md:10: 121 characters",
            "below/bad.md:15: other.md#none: there is no such heading",
            "below/bad.md:2: missing.md: there is no such file",
            "below/bad.md:3: #a-header: there is no such heading",
            "below/bad.md:4: ../good.md#twice-2: there is no such heading",
            "below/bad.md:5: ../../outside.md: leads out of the tree",
            "below/bad.md:6: ../figure.svg#part: an anchor in what is no document",
            "below/bad.md:7: missing.svg: there is no such file",
            "below/bad.md:8: missing.png: there is no such file",
            "below/bad.md:9: missing.txt: there is no such file",
        ]
    );
}
