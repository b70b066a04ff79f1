//! What `ployzctl doctor` reports: checks of one machine, each with what was seen and what to do about it.

use serde::{Deserialize, Serialize};

/// Everything that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// Whether ployzd answered; without it only what the machine itself shows was looked at.
    pub daemon_answers: bool,
    /// In the order in which one thing stands on another.
    pub checks: Vec<Check>,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name; stable, for scripts.
    pub check: String,
    /// How bad it is.
    pub level: Level,
    /// What was seen.
    pub seen: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// How bad it is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::Display,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works and should be looked at, or could not be found out.
    Warn,
    /// Something does not work.
    Fail,
}

impl Doctor {
    /// The worst level; what is `fail` makes `ployzctl doctor` exit with 1.
    pub fn worst(&self) -> Level {
        self.checks.iter().map(|check| check.level).max().unwrap_or(Level::Ok)
    }

    /// The counts in one line: `3 checks: 1 failed, 2 warnings`.
    pub fn summary(&self) -> String {
        let count = |level| self.checks.iter().filter(|check| check.level == level).count();
        let (fail, warn) = (count(Level::Fail), count(Level::Warn));
        format!(
            "{} checks: {fail} failed, {warn} warning{}",
            self.checks.len(),
            if warn == 1 { "" } else { "s" }
        )
    }
}

impl Check {
    /// As it should be.
    pub fn ok(check: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { check: check.into(), level: Level::Ok, seen: seen.into(), advice: None }
    }

    /// To be looked at.
    pub fn warn(check: impl Into<String>, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warn, advice: Some(advice.into()), ..Self::ok(check, seen) }
    }

    /// Broken.
    pub fn fail(check: impl Into<String>, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Fail, ..Self::warn(check, seen, advice) }
    }
}
