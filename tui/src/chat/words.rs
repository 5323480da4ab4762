//! What the chat says about itself: help, settings, numbers.

use moelten_engine::api::{GenerateStats, StopReason};

use super::files::count_words;
use super::{Busy, Chat};
use crate::command::{self, TABLE};
use crate::figures;
use crate::settings::Setting;

impl Chat {
    /// What to say to somebody who wants what cannot be done while something is computed.
    pub fn has_to_wait(&self) -> String {
        let doing = match self.busy {
            Some(Busy::Summary { .. }) => "a summary is being written",
            Some(Busy::Switch) => "a model is being opened",
            Some(Busy::Reading { .. }) => {
                return "That has to wait: a question waits for its file; Ctrl-C takes it back.".to_owned();
            }
            Some(Busy::Answer { .. }) | None => "an answer is being written",
        };
        format!("That has to wait: {doing}; Ctrl-C stops it.")
    }

    pub(super) fn settings(&self) -> String {
        let row = |setting: Setting| {
            format!("  {:<15} {:<10} {}", setting.name(), setting.get(&self.params), setting.help())
        };
        Setting::ALL.map(row).join("\n")
    }

    pub(super) fn system_text(&self) -> &str {
        self.system.as_deref().unwrap_or("none")
    }

    pub(super) fn show(&self) -> String {
        let mut text = format!("  {:<15} {}\n", "model", self.facts.model);
        for (name, value) in &self.facts.rows {
            text.push_str(&format!("  {name:<15} {value}\n"));
        }
        text.push_str(&format!("  {:<15} {}\n", "conversation", count_words(self.standing().len())));
        if self.forgotten > 0 {
            let how = if self.summary.is_some() { "summarised" } else { "not seen by the model" };
            text.push_str(&format!("  {:<15} {} of them {how}\n", "", self.forgotten));
        }
        text.push_str(&format!("  {:<15} {}\n", "system prompt", self.system_text()));
        text + &self.settings()
    }

    pub(super) fn stats(&self) -> String {
        let Some(stats) = self.last else { return "There is no answer yet.".to_owned() };
        let rows =
            [("conversation", count_words(self.standing().len()))].into_iter().chain(figures::rows(&stats));
        rows.map(|(name, value)| format!("  {name:<15} {value}")).collect::<Vec<_>>().join("\n")
    }
}

/// What `/help` says in line mode.
pub fn help() -> String {
    let row = |entry: &command::Entry| {
        format!("  {:<24} {}", format!("{} {}", entry.name, entry.arguments), entry.help)
    };
    let commands: Vec<_> = TABLE.iter().map(row).collect();
    format!(
        "{}\n\nSeveral lines: begin and end with \"\"\", or end a line with \\, or paste them.\n\
         Ctrl-C stops an answer, Ctrl-D leaves, Tab completes commands and file names.",
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
    format!(
        "[{} tokens, {:.1} tok/s, context {used}/{size} ({}%){end}]",
        stats.generated_tokens,
        stats.generated_tokens_per_s(),
        used * 100 / size.max(1)
    )
}
