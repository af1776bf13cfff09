//! The man page votive-agent(8): the command line as clap_mangen tells it, and every field of the configuration.

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::cli::{EXIT_CODES, SIGNALS, command};
use super::logging::LEVEL_VARIABLE;
use crate::config::{DEFAULT_FILE, reference};
use crate::images::FOLDER_VARIABLE;

/// The page in troff's language.
pub(super) fn page() -> std::io::Result<Vec<u8>> {
    let man = Man::new(command()).section("8");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_subcommands_section(&mut page)?;
    configuration().to_writer(&mut page)?;
    list("SIGNALS", &SIGNALS).to_writer(&mut page)?;
    let environment = [
        ("VOTIVE_AGENT_CONFIG", "the configuration's file"),
        (LEVEL_VARIABLE, "what is logged, in place of log.level"),
        (FOLDER_VARIABLE, "the folder with images, without worker.images"),
        (
            "NOTIFY_SOCKET, WATCHDOG_USEC",
            "as systemd sets them: readiness, status and signs of life go there",
        ),
    ];
    list("ENVIRONMENT", &environment).to_writer(&mut page)?;
    list("EXIT STATUS", &EXIT_CODES).to_writer(&mut page)?;
    Ok(page)
}

fn list(heading: &str, items: &[(&str, &str)]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [heading]);
    for (name, text) in items {
        roff.control("TP", []);
        roff.text([bold(*name)]);
        roff.text([roman(*text)]);
    }
    roff
}

fn configuration() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["CONFIGURATION"]);
    roff.text([
        roman("One TOML file, "),
        italic(DEFAULT_FILE),
        roman(" unless another is named. A field that is left out has its default; one that is not listed is refused."),
    ]);
    for section in reference::sections() {
        roff.control("SS", [format!("[{}]", section.name).as_str()]);
        roff.text([roman(section.text)]);
        for field in section.fields {
            roff.control("TP", []);
            roff.text([bold(field.name.as_str()), roman(format!(" ({})", field.summary()))]);
            roff.text([roman(field.text)]);
            for (value, meaning) in field.values {
                roff.control("br", []);
                roff.text([italic(format!("{value:?}")), roman(format!(": {meaning}"))]);
            }
        }
    }
    roff
}
