//! What is said about every field, made of the documentation comments of [`Config`]: as text for `--help`, as Markdown for
//! `docs/configuration.md`, as TOML for an example, and for the man page.

use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Config;

/// A table of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub text: String,
    /// Its fields.
    pub fields: Vec<Field>,
}

/// A field of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// `string`, `path`, `duration`, ...
    pub kind: String,
    /// Its default as TOML; `None` if it is worked out when it is left out.
    pub default: Option<String>,
    /// What it does and which values are allowed.
    pub text: String,
    /// The values of an enumeration and what they mean.
    pub values: Vec<(String, String)>,
}

/// Every table with every field, in the order of the file.
#[must_use]
pub fn sections() -> Vec<Section> {
    let settings =
        SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<Config>().to_value();
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let sections = properties(&schema).map(|(name, section)| Section {
        name: name.clone(),
        text: description(section),
        fields: properties(section).map(|(f, s)| field(f, s, &defaults[name][f])).collect(),
    });
    sections.collect()
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema["properties"].as_object().into_iter().flatten()
}

/// A documentation comment as one paragraph.
fn description(schema: &Value) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn field(name: &str, schema: &Value, default: &Value) -> Field {
    // Of a list, those of its items.
    let listed = schema["items"]["oneOf"].as_array();
    let variants = schema["oneOf"].as_array().or(listed).into_iter().flatten();
    let values: Vec<_> = variants
        .filter_map(|value| Some((value["const"].as_str()?.to_owned(), description(value))))
        .collect();
    // An optional field has two types, its own and null, and an optional newtype two schemas.
    let own = schema["anyOf"].as_array().and_then(|schemas| schemas.first()).unwrap_or(schema);
    let plain = match &own["type"] {
        Value::Array(types) => types.first().and_then(Value::as_str),
        other => other.as_str(),
    };
    let kind = match (own["format"].as_str(), plain) {
        _ if listed.is_some() => "list of",
        _ if !values.is_empty() => "one of",
        (Some("uint32"), _) | (None, Some("integer")) => "integer",
        (Some(format), _) => format,
        (None, Some(plain)) => plain,
        (None, None) => "string",
    };
    Field {
        name: name.to_owned(),
        kind: kind.to_owned(),
        default: (!default.is_null()).then(|| default.to_string()),
        text: description(schema),
        values,
    }
}

impl Field {
    /// Kind and default, or values and default, in a few words.
    pub(crate) fn summary(&self) -> String {
        let kind = if self.values.is_empty() {
            self.kind.clone()
        } else {
            let names: Vec<_> = self.values.iter().map(|(name, _)| format!("{name:?}")).collect();
            names.join(" | ")
        };
        match &self.default {
            Some(default) => format!("{kind}, default {default}"),
            None => format!("{kind}, optional"),
        }
    }
}

/// The reference as plain text, `width` columns wide.
#[must_use]
pub fn text(width: usize) -> String {
    let mut out = String::new();
    for section in sections() {
        // Writing to a string does not fail.
        let _ = writeln!(out, "[{}]  {}", section.name, section.text);
        for field in &section.fields {
            let _ = writeln!(out, "  {} ({})", field.name, field.summary());
            wrap(&mut out, &field.text, 6, width);
            for (value, meaning) in &field.values {
                wrap(&mut out, &format!("{value:?}: {meaning}"), 8, width);
            }
        }
        out.push('\n');
    }
    out.trim_end().to_owned()
}

fn wrap(out: &mut String, text: &str, indent: usize, width: usize) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if column > 0 && column + 1 + len > width {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += len;
    }
    out.push('\n');
}

const PREAMBLE: &str = "\
# Configuration

`votive-agent` reads one TOML file, `/etc/votive/votive-agent.toml` unless `--config` (or `$VOTIVE_AGENT_CONFIG`) names another. Every
field has a default, so that no file is needed on one machine. A field that is not listed here is refused, with the name that was
probably meant; a wrong value is told with its line, its field and what is allowed. `votive-agent check-config [FILE]` tells
all of it without starting anything, and looks at the files, images, certificates and permissions too.

This page is made by `votive-agent config-reference` from the documentation comments in `agent/src/config.rs`; a test fails if
they differ. Durations are written with their units (`14h`, `1h 30m`, `500ms`), and so are sizes (`64GiB`, `1.5GB`).
";

/// The reference as `docs/configuration.md`.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(PREAMBLE);
    for section in sections() {
        let _ = write!(out, "\n## `[{}]`\n\n{}\n\n", section.name, section.text);
        out.push_str("| field | type | default | what it is |\n| --- | --- | --- | --- |\n");
        for field in &section.fields {
            let default = field.default.as_ref().map_or_else(String::new, |d| format!("`{d}`"));
            let mut text = field.text.clone();
            for (value, meaning) in &field.values {
                let _ = write!(text, "<br>`{value:?}`: {meaning}");
            }
            let text = text.replace('|', "\\|");
            let _ = writeln!(out, "| `{}` | {} | {default} | {text} |", field.name, field.kind);
        }
    }
    out
}
