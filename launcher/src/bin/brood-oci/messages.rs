//! Messages in runc's form: `time="..." level=error msg="..."` as text, `{"level","msg","time"}` as JSON.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use anyhow::Context;
use clap::ValueEnum;

/// Form of the log file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `time="..." level=error msg="..."`
    #[default]
    Text,
    /// `{"level":"error","msg":"...","time":"..."}`
    Json,
}

/// How much is written: what is at least as severe as this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    /// Failures.
    Error,
    /// What went on differently than asked, too.
    #[default]
    #[value(alias = "warning")]
    Warn,
    /// As `warn`: there are no messages of this level.
    Info,
    /// Everything.
    Debug,
}

/// Where messages go.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    file: Option<Arc<File>>,
    format: LogFormat,
    level: Level,
}

impl Messages {
    /// Opens the log file; `file:PATH` is crun's way to write a path.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn new(log: Option<&str>, format: LogFormat, level: Level) -> anyhow::Result<Messages> {
        let path = log.map(|log| log.strip_prefix("file:").unwrap_or(log)).filter(|path| !path.is_empty());
        let open = |path: &str| {
            let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o644).open(path);
            file.with_context(|| format!("--log {path}"))
        };
        Ok(Messages { file: path.map(open).transpose()?.map(Arc::new), format, level })
    }

    /// A failure: always written.
    pub fn error(&self, message: &str) {
        self.write("error", message);
    }

    /// A failure that says itself on standard error, in these words alone.
    pub fn error_as(&self, words: &str, message: &str) {
        let _ = std::io::stderr().write_all(format!("{words}\n").as_bytes());
        self.write_to_file("error", message);
    }

    /// Something that went on differently than asked.
    pub fn warning(&self, message: &str) {
        if self.level >= Level::Warn {
            self.write("warning", message);
        }
    }

    /// Only with `--debug`; on standard error only where there is no log file, as with runc.
    pub fn debug(&self, message: &str) {
        if self.level >= Level::Debug {
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        // Nobody is left to tell when these cannot be written.
        if level != "debug" || self.file.is_none() {
            let _ = std::io::stderr().write_all(line(LogFormat::Text, level, message).as_bytes());
        }
        self.write_to_file(level, message);
    }

    fn write_to_file(&self, level: &str, message: &str) {
        if let Some(mut file) = self.file.as_deref() {
            let _ = file.write_all(line(self.format, level, message).as_bytes());
        }
    }
}

fn line(format: LogFormat, level: &str, message: &str) -> String {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    // Quoting of Go's %q and of JSON agree for what messages hold.
    let quoted = serde_json::Value::from(message).to_string();
    match format {
        LogFormat::Text => format!("time=\"{now}\" level={level} msg={quoted}\n"),
        LogFormat::Json => format!("{{\"level\":\"{level}\",\"msg\":{quoted},\"time\":\"{now}\"}}\n"),
    }
}
