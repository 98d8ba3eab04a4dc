//! A parser for the part of GitHub's Markdown that links and headings need.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

/// A document without its code blocks.
pub(super) struct Document {
    /// The number of each line, and the line.
    pub(super) lines: Vec<(usize, String)>,
    /// The valid fragments (`#…`) of links to the document.
    pub(super) anchors: BTreeSet<String>,
}

impl Document {
    pub(super) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("UTF-8");
        let lines = prose(&text);
        let anchors = anchors(&lines);
        Self { lines, anchors }
    }
}

/// The lines outside of code blocks, with their numbers.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut fence: Option<(char, usize)> = None;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let marker = line.trim();
        let run = |c: char| marker.chars().take_while(|other| *other == c).count();
        let found = ['`', '~'].map(|c| (c, run(c)));
        let found = found.into_iter().find(|(_, length)| *length >= 3);
        match (fence, found) {
            (None, None) => lines.push((index + 1, line.to_owned())),
            (None, Some(_)) => fence = found,
            // The closing fence is at least as long as the opening fence, with no text behind it.
            (Some((open, least)), Some((c, length)))
                if c == open && length >= least && length == marker.len() =>
            {
                fence = None;
            }
            (Some(_), _) => {}
        }
    }
    lines
}

/// The targets of a line's links.
pub(super) fn links(line: &str) -> Vec<String> {
    let line = without_code(line);
    let mut links: Vec<_> = inline_links(&line)
        .into_iter()
        .map(|(start, end)| line[start..end].to_owned())
        .collect();
    let definition = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]: "));
    links.extend(definition.map(|(_, target)| target.trim().to_owned()));
    for attribute in ["href=\"", "src=\""] {
        for (at, found) in line.match_indices(attribute) {
            links.extend(
                line[at + found.len()..]
                    .split('"')
                    .next()
                    .map(str::to_owned),
            );
        }
    }
    for link in &mut links {
        let target = link.split(" \"").next().unwrap_or_default();
        *link = target.trim_matches(['<', '>']).replace("%20", " ");
    }
    links
}

/// The start and the end of each target in `[text](target)`.
fn inline_links(line: &str) -> Vec<(usize, usize)> {
    let closing = |start: usize| {
        let mut depth = 1;
        line[start..].char_indices().find_map(|(offset, c)| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            (depth == 0).then_some((start, start + offset))
        })
    };
    let starts = line.match_indices("](").map(|(at, found)| at + found.len());
    starts.filter_map(closing).collect()
}

/// A line with blanks in place of its code spans.
fn without_code(line: &str) -> String {
    let mut parts = line.split('`');
    let mut text = parts.next().unwrap_or_default().to_owned();
    while let (Some(_code), Some(after)) = (parts.next(), parts.next()) {
        text.push_str("``");
        text.push_str(after);
    }
    text
}

pub(super) fn length_without_links(line: &str) -> usize {
    let targets: usize = inline_links(line)
        .into_iter()
        .map(|(start, end)| line[start..end].chars().count())
        .sum();
    let bare = |word: &&str| word.contains("://") && !word.contains("](");
    let addresses: usize = line
        .split_whitespace()
        .filter(bare)
        .map(|word| word.chars().count())
        .sum();
    line.chars().count() - targets - addresses
}

/// The valid fragments of links to a document: its headings as GitHub names them, and its own anchors.
fn anchors(lines: &[(usize, String)]) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (_, line) in lines {
        let level = line.chars().take_while(|c| *c == '#').count();
        if let (1..=6, Some(heading)) = (level, line[level..].strip_prefix(' ')) {
            let slug = slug(heading);
            let before = seen.entry(slug.clone()).or_default();
            anchors.insert(match *before {
                0 => slug,
                number => format!("{slug}-{number}"),
            });
            *before += 1;
        }
        for (at, found) in line.match_indices("id=\"") {
            anchors.extend(
                line[at + found.len()..]
                    .split('"')
                    .next()
                    .map(str::to_owned),
            );
        }
    }
    anchors
}

/// As GitHub does it: the text as it is shown, in lower case, without punctuation, with hyphens for spaces.
fn slug(heading: &str) -> String {
    let mut text = heading.trim().trim_end_matches('#').trim_end().to_owned();
    while let Some((start, end)) = inline_links(&text).first().copied() {
        // `[text](target)` shows its text.
        text.replace_range(start - 2..=end, "");
    }
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .flat_map(char::to_lowercase)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
