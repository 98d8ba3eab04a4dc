//! Access to the documentation files and their parts.

use std::fs;

/// The front page.
pub(crate) const README: &str = "README.md";
/// The page for operators.
pub(crate) const CHART: &str = "helm/leasehold/README.md";
/// The page for client developers.
pub(crate) const OPENAPI: &str = "openapi/README.md";
/// The page for commands under a lease.
pub(crate) const GUIDE: &str = "src/run/README.md";

/// A whole document.
pub(crate) fn text_of(document: &str) -> String {
    fs::read_to_string(document).unwrap_or_else(|error| panic!("{document}: {error}"))
}

/// The section of a document below this heading of the second level.
pub(crate) fn section(document: &str, heading: &str) -> String {
    let text = text_of(document);
    let begin = format!("\n## {heading}\n");
    let after = text.split(&begin).nth(1);
    let after = after.unwrap_or_else(|| panic!("{document} has no section {heading:?}"));
    after.split("\n## ").next().unwrap_or_default().to_owned()
}

/// The fenced code blocks in document order: language and text.
pub(crate) fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// Whether `line` matches `expected`, where `…` matches any text.
pub(crate) fn resembles(line: &str, expected: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last == Some("")
}
