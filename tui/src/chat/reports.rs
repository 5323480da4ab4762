//! Texts about the chat itself: help, settings, statistics, and why something has to wait.

use moelten_engine::api::{GenerateStats, StopReason};

use super::figures;
use super::state::{Busy, Chat};
use crate::input::command::{CommandEntry, TABLE};
use crate::input::settings::Setting;

impl Chat {
    /// What to say when a command has to wait for the activity in progress.
    pub fn busy_text(&self) -> String {
        let doing = match self.busy {
            Some(Busy::Summarising { .. }) => "Still summarising. Ctrl-C stops it.",
            Some(Busy::Switching) => "Still loading the model. Ctrl-C cancels.",
            Some(Busy::Reading { .. }) => "A message is waiting for its attached file. Ctrl-C takes it back.",
            Some(Busy::Answering { .. }) | None => "Still answering. Ctrl-C stops it.",
        };
        doing.to_owned()
    }

    pub(super) fn settings_text(&self) -> String {
        let row = |setting: Setting| {
            format!("  {:<15} {:<10} {}", setting.name(), setting.get(&self.params), setting.help())
        };
        Setting::ALL.map(row).join("\n")
    }

    pub(super) fn system_text(&self) -> &str {
        self.system.as_deref().unwrap_or("none")
    }

    pub(super) fn show_text(&self) -> String {
        let mut text = format!("  {:<15} {}\n", "model", self.facts.model);
        for (name, value) in &self.facts.rows {
            text.push_str(&format!("  {name:<15} {value}\n"));
        }
        text.push_str(&format!("  {:<15} {}\n", "conversation", count_text(self.settled_turns().len())));
        if self.hidden > 0 {
            let how = if self.summary.is_some() { "summarised" } else { "not seen by the model" };
            text.push_str(&format!("  {:<15} {} of them {how}\n", "", self.hidden));
        }
        text.push_str(&format!("  {:<15} {}\n", "system prompt", self.system_text()));
        text + &self.settings_text()
    }

    pub(super) fn stats_text(&self) -> String {
        let Some(stats) = self.last else { return "There is no answer yet.".to_owned() };
        let conversation = ("conversation", count_text(self.settled_turns().len()));
        let rows = [conversation].into_iter().chain(figures::rows(&stats));
        rows.map(|(name, value)| format!("  {name:<15} {value}")).collect::<Vec<_>>().join("\n")
    }
}

/// The text of `/help` in line mode.
pub fn help() -> String {
    let row = |entry: &CommandEntry| {
        format!("  {:<24} {}", format!("{} {}", entry.name, entry.arguments), entry.help)
    };
    let commands: Vec<_> = TABLE.iter().map(row).collect();
    format!(
        "{}\n\nFor several lines, begin and end with \"\"\", end each line with \\, or paste them.\n\
         Ctrl-C stops an answer, Ctrl-D quits, Tab completes commands and file names.",
        commands.join("\n")
    )
}

/// The line after an answer.
pub fn summary(reason: &StopReason, stats: &GenerateStats) -> String {
    let end = match reason {
        StopReason::EndOfTurn | StopReason::ContextFull => "",
        StopReason::StopText(_) => ", ended by a stop text",
        StopReason::MaxTokens => ", cut at max-tokens",
        StopReason::Cancelled => ", stopped",
    };
    let GenerateStats { context_used: used, context_size: size, .. } = *stats;
    // A single token takes no time that could be measured.
    let speed = match stats.generated_tokens {
        0 | 1 => String::new(),
        _ => format!("{:.1} tok/s, ", stats.generated_tokens_per_s()),
    };
    let (tokens, percent) = (figures::tokens_text(stats.generated_tokens), used * 100 / size.max(1));
    format!("[{tokens}, {speed}context {used}/{size} ({percent}%){end}]")
}

/// `1 message`, `2 messages`: questions and answers together.
pub fn count_text(messages: usize) -> String {
    if messages == 1 { "1 message".to_owned() } else { format!("{messages} messages") }
}
