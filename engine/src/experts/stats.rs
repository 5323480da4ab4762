//! What the store counts. Plain numbers; it must not know where they come from or who prints them.

use std::time::Duration;

/// What the store did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Requests of passes that only decode.
    pub decode: PhaseStats,
    /// Requests of passes that read prompts.
    pub prefill: PhaseStats,
    /// Bytes read from files, guesses included.
    pub bytes_read: u64,
    /// Reads that brought them.
    pub reads: u64,
    /// Time with a read on its way.
    pub busy: Duration,
    /// Reads that failed once and then came.
    pub retries: u64,
    /// Slots whose memory the system brought while nothing was computed.
    pub touched: u64,
    /// Guesses, by bank.
    pub ahead: Vec<Ahead>,
}

/// What a pass is for. It is said by the code that begins the pass, never guessed from the number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading the tokens of a prompt.
    Prefill,
    /// Computing the next token of each sequence.
    Decode,
}

/// Requests for the experts of a bank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PhaseStats {
    /// Experts asked for.
    pub used: u64,
    /// Bytes of their weights.
    pub used_bytes: u64,
    /// Experts that were not here and had to be read.
    pub missed: u64,
    /// Bytes of their weights.
    pub missed_bytes: u64,
    /// Time that computing stood still for them.
    pub stall: Duration,
}

impl PhaseStats {
    /// Share of the bytes asked for that was here, 0 to 1; 1 when nothing was asked for.
    pub fn hit_rate(&self) -> f64 {
        if self.used_bytes == 0 { 1.0 } else { 1.0 - self.missed_bytes as f64 / self.used_bytes as f64 }
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self {
            used: self.used - before.used,
            used_bytes: self.used_bytes - before.used_bytes,
            missed: self.missed - before.missed,
            missed_bytes: self.missed_bytes - before.missed_bytes,
            stall: self.stall.saturating_sub(before.stall),
        }
    }
}

/// Guesses at a bank's experts, made one bank before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Experts that the bank then chose, of requests that were guessed at.
    pub chosen: u64,
    /// How many of them were among as many guesses.
    pub foreseen: u64,
    /// Guesses that were read, at least in part.
    pub read: u64,
    /// How many of them were chosen.
    pub useful: u64,
}

impl StoreStats {
    /// The counts of a phase.
    pub fn phase(&mut self, phase: Phase) -> &mut PhaseStats {
        match phase {
            Phase::Prefill => &mut self.prefill,
            Phase::Decode => &mut self.decode,
        }
    }

    /// Experts asked for.
    pub fn experts_used(&self) -> u64 {
        self.decode.used + self.prefill.used
    }

    /// Bytes of their weights.
    pub fn bytes_used(&self) -> u64 {
        self.decode.used_bytes + self.prefill.used_bytes
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let none = Ahead::default();
        let ahead = self.ahead.iter().enumerate().map(|(bank, now)| {
            let before = before.ahead.get(bank).unwrap_or(&none);
            Ahead {
                chosen: now.chosen - before.chosen,
                foreseen: now.foreseen - before.foreseen,
                read: now.read - before.read,
                useful: now.useful - before.useful,
            }
        });
        Self {
            decode: self.decode.since(&before.decode),
            prefill: self.prefill.since(&before.prefill),
            bytes_read: self.bytes_read - before.bytes_read,
            reads: self.reads - before.reads,
            busy: self.busy.saturating_sub(before.busy),
            retries: self.retries - before.retries,
            touched: self.touched - before.touched,
            ahead: ahead.collect(),
        }
    }

    /// Bytes per second while something was being read, in 10^9; 0 when nothing was.
    pub fn read_gb_per_s(&self) -> f64 {
        let seconds = self.busy.as_secs_f64();
        if seconds > 0.0 { self.bytes_read as f64 / seconds / 1e9 } else { 0.0 }
    }

    /// All banks' guesses together.
    pub fn ahead_total(&self) -> Ahead {
        self.ahead.iter().fold(Ahead::default(), |sum, bank| Ahead {
            chosen: sum.chosen + bank.chosen,
            foreseen: sum.foreseen + bank.foreseen,
            read: sum.read + bank.read,
            useful: sum.useful + bank.useful,
        })
    }
}
