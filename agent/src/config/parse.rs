//! From text to a [`Config`], with every problem told by line, field, value and what is allowed.

use serde_path_to_error::{Path as FieldPath, Segment};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, Problem};
use crate::config::reference::{self, Section};

/// Reads a configuration.
///
/// # Errors
/// Every problem that was found: a text that is no TOML first, then all unknown fields, then the first value of a wrong type,
/// then all values that are not allowed.
pub fn parse(text: &str) -> Result<Config, Vec<Problem>> {
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map(|span| line_of(text, span.start));
        vec![Problem { line, field: String::new(), message: one_line(error.message()) }]
    })?;
    let table = table.get_ref();
    let mut problems = unknown_fields(text, table);
    match typed(text) {
        // Its own complaint of an unknown field repeats ours.
        Err(_) if !problems.is_empty() => {}
        Err(problem) => problems.push(problem),
        Ok(config) => {
            let wrong = config.problems();
            problems.extend(wrong.into_iter().map(|problem| located(text, table, problem)));
            if problems.is_empty() {
                return Ok(config);
            }
        }
    }
    problems.sort_by_key(|problem| problem.line);
    Err(problems)
}

fn typed(text: &str) -> Result<Config, Problem> {
    let whole = |error: &toml::de::Error| Problem {
        line: error.span().map(|span| line_of(text, span.start)),
        field: String::new(),
        message: one_line(error.message()),
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| whole(&error))?;
    serde_path_to_error::deserialize(deserializer)
        .map_err(|error| Problem { field: dotted(error.path()), ..whole(error.inner()) })
}

fn dotted(path: &FieldPath) -> String {
    let names = path.iter().filter_map(|segment| match segment {
        Segment::Map { key } => Some(key.as_str()),
        _ => None,
    });
    names.collect::<Vec<_>>().join(".")
}

/// Messages of the parsers may have several lines, and what is in them may be anything.
fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let joined = lines.collect::<Vec<_>>().join("; ");
    joined
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_debug().collect() } else { vec![c] })
        .collect()
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn unknown_fields(text: &str, table: &DeTable<'_>) -> Vec<Problem> {
    let sections = reference::sections();
    let mut problems = Vec::new();
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        let problem = |key: &Spanned<_>, field: String, message: String| Problem {
            line: Some(line_of(text, key.span().start)),
            field: field.escape_debug().to_string(),
            message,
        };
        let Some(section) = sections.iter().find(|section| section.name == name) else {
            problems.push(problem(key, name.to_owned(), no_such(name, None, &sections)));
            continue;
        };
        let DeValue::Table(fields) = value.get_ref() else {
            continue;
        };
        for key in fields.keys() {
            let field = key.get_ref().as_ref();
            if !section.fields.iter().any(|known| known.name == field) {
                let message = no_such(field, Some(section), &sections);
                problems.push(problem(key, format!("{name}.{field}"), message));
            }
        }
    }
    problems
}

/// How alike two names must be for one to be meant by the other, from 0 to 1.
const ALIKE_MIN: f64 = 0.75;

/// Says that there is no such name, and which one was probably meant: in its own section first, then anywhere.
fn no_such(name: &str, section: Option<&Section>, sections: &[Section]) -> String {
    let own: Vec<String> = match section {
        Some(section) => section.fields.iter().map(|field| field.name.clone()).collect(),
        None => sections.iter().map(|section| section.name.clone()).collect(),
    };
    let everywhere: Vec<String> = sections
        .iter()
        .flat_map(|section| section.fields.iter().map(|f| format!("{}.{}", section.name, f.name)))
        .collect();
    let meant = nearest(name, &own, |own| own).or_else(|| {
        nearest(name, &everywhere, |full| full.split_once('.').map_or(full, |(_, field)| field))
    });
    match meant {
        Some(meant) => format!("there is no such field; did you mean {meant}?"),
        None => format!("there is no such field; there are: {}", own.join(", ")),
    }
}

fn nearest<'n>(name: &str, names: &'n [String], part: fn(&str) -> &str) -> Option<&'n str> {
    // Comparing costs the product of the lengths, and the name is a stranger's.
    if name.len() > 64 {
        return None;
    }
    let name = name.to_lowercase().replace('-', "_");
    let alike = |known: &str| strsim::jaro_winkler(&name, part(known));
    let best = names.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(best) >= ALIKE_MIN).then_some(best.as_str())
}

/// Adds the line that a field stands in.
fn located(text: &str, table: &DeTable<'_>, problem: Problem) -> Problem {
    let line = problem.field.split_once('.').and_then(|(section, field)| {
        let find = |table: &DeTable<'_>, name: &str| {
            table.iter().find(|(key, _)| key.get_ref().as_ref() == name).map(|(key, _)| key.span())
        };
        let fields = table.iter().find(|(key, _)| key.get_ref().as_ref() == section);
        match fields.map(|(_, value)| value.get_ref()) {
            Some(DeValue::Table(fields)) => find(fields, field),
            _ => None,
        }
    });
    Problem { line: line.map(|span| line_of(text, span.start)), ..problem }
}
