//! Sizes, shares and the statistics of an answer as text, for `/stats`, the screen and the commands of the
//! program. It must not know where the numbers come from.

use std::time::Duration;

use moelten_engine::api::{CacheUse, GenerateStats, GpuUse, MemoryUse};
pub use moelten_loader::size::bytes;

/// A part of a size in the unit of the whole, unless it is far smaller: `1.2/4.3 GiB`, `5 MiB/22.5 GiB`.
pub fn bytes_of(part: u64, whole: u64) -> String {
    let text = bytes(whole);
    let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
    let shown: f64 = number.parse().unwrap_or(0.0);
    if shown == 0.0 || part < whole / 50 {
        return format!("{}/{text}", bytes(part));
    }
    format!("{:.1}/{number} {unit}", part as f64 / (whole as f64 / shown))
}

/// `1 token`, `2 tokens`.
pub(super) fn tokens_text(tokens: usize) -> String {
    if tokens == 1 { "1 token".to_owned() } else { format!("{tokens} tokens") }
}

/// A share, 0 to 1, in percent; only the whole is `100.0 %`.
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent < 100.0 && percent > 99.9 { "99.9 %".to_owned() } else { format!("{percent:.1} %") }
}

/// A count with separated thousands: `3,920`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// How long ago something was: `just now`, `5 min ago`, `3 days ago`.
pub fn ago(age: Duration) -> String {
    let minutes = age.as_secs() / 60;
    let plural = |number: u64, unit: &str| match number {
        1 => format!("1 {unit} ago"),
        _ => format!("{number} {unit}s ago"),
    };
    match minutes {
        0..2 => "just now".to_owned(),
        2..90 => format!("{minutes} min ago"),
        90..2160 => plural((minutes + 30) / 60, "hour"),
        _ => plural((minutes + 720) / 1440, "day"),
    }
}

/// The statistics of an answer, each a name and a value.
pub fn rows(stats: &GenerateStats) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        (
            "prompt",
            format!(
                "{} tokens, {} from cache; prompt read in {:.2} s ({:.1} tok/s)",
                stats.prompt_tokens,
                stats.cached_tokens,
                stats.prompt_time.as_secs_f64(),
                stats.prompt_tokens_per_s()
            ),
        ),
        (
            "answer",
            format!(
                "{} in {:.2} s ({:.1} tok/s)",
                tokens_text(stats.generated_tokens),
                stats.generate_time.as_secs_f64(),
                stats.generated_tokens_per_s()
            ),
        ),
        ("context", format!("{} of {} tokens", stats.context_used, stats.context_size)),
    ];
    if stats.experts_used > 0 {
        let evaluations = count(stats.experts_used);
        rows.push(("experts", format!("{evaluations} expert evaluations, {}", bytes(stats.expert_bytes))));
    }
    rows.extend(cache_rows(stats));
    rows
}

/// The statistics of the expert cache, where experts are read, of memory and of a GPU.
pub fn cache_rows(stats: &GenerateStats) -> Vec<(&'static str, String)> {
    let mut rows = streamed_rows(stats);
    rows.extend(memory(&stats.memory).map(|words| ("memory", words)));
    rows.extend(stats.gpu.iter().map(|gpu| ("GPU", gpu_words(gpu))));
    rows
}

fn gpu_words(gpu: &GpuUse) -> String {
    if gpu.lost {
        return "not used any more; experts are computed from RAM and file".to_owned();
    }
    let (share, exactness) = (percent(gpu.share().unwrap_or(0.0)), gpu.exactness());
    let (held, slots, all) = (gpu.held, gpu.slots, bytes(gpu.bytes));
    format!(
        "computed {share} of the experts of decoded tokens, {exactness}; {held} of {slots} slots in {all} hold experts"
    )
}

/// The notice that a GPU is not used any more.
pub const GPU_LOST: &str = "The GPU is not used any more: it failed, or was slower than the CPU alone. Answers go on with the bits of \
                            the CPU from RAM and file.";

fn streamed_rows(stats: &GenerateStats) -> Vec<(&'static str, String)> {
    let Some(cache) = &stats.cache else { return Vec::new() };
    let read = stats.prompt_tokens - stats.cached_tokens;
    // The first token is sampled from the prompt's logits.
    let written = stats.generated_tokens.saturating_sub(1);
    let phases = [
        ("cache, prompt", cache.prompt, read, stats.prompt_time),
        ("cache, answer", cache.answer, written, stats.generate_time),
    ];
    let row = |(name, used, tokens, time)| Some((name, cache_use(&used, tokens, time)?));
    let mut rows: Vec<_> = phases.into_iter().filter_map(row).collect();
    if let Some(guesses) = prefetch(&cache.answer).or_else(|| prefetch(&cache.prompt)) {
        rows.push(("prefetch", guesses));
    }
    let retries = cache.prompt.retries + cache.answer.retries;
    if retries > 0 {
        rows.push(("disk", format!("{retries} reads succeeded only when retried")));
    }
    rows
}

/// What the cache did for `tokens` tokens, which took `time`.
fn cache_use(used: &CacheUse, tokens: usize, time: Duration) -> Option<String> {
    let hits = percent(used.hit_rate()?);
    let (read, per_token) = (bytes(used.read_bytes), bytes(used.read_bytes / tokens.max(1) as u64));
    let speed = used.read_gb_per_s().map_or_else(String::new, |speed| format!(" at {speed:.2} GB/s"));
    let stall = used.stall.as_secs_f64();
    let share = match time.as_secs_f64() {
        0.0 => String::new(),
        time => format!(", {} of the time", percent((stall / time).min(1.0))),
    };
    let evicted = count(used.evicted);
    Some(format!(
        "{hits} hits; {read} read{speed}, {per_token} per token; {evicted} evicted; stalled {stall:.2} s{share}"
    ))
}

fn prefetch(used: &CacheUse) -> Option<String> {
    let predicted = percent(used.prefetch_recall()?);
    let read = used.prefetch_precision().map_or_else(
        || "none prefetched".to_owned(),
        |share| format!("{} prefetched, {} of them used", used.prefetched, percent(share)),
    );
    Some(format!("{predicted} of the next layer's experts predicted; {read}"))
}

/// What the process owns of its budget, and what `top` shows besides; `None` where the system does not say.
fn memory(memory: &MemoryUse) -> Option<String> {
    let owned = memory.owned_bytes?;
    let mut text = format!("{} owned of a budget of {}", bytes(owned), bytes(memory.budget_bytes));
    if memory.slot_bytes > 0 {
        text.push_str(&format!("; expert cache {}", bytes(memory.slot_bytes)));
    }
    if let Some(mapped) = memory.mapped_bytes {
        let all = bytes(owned + mapped);
        text.push_str(&format!("; `top` shows {all}: {} of mapped files are not owned", bytes(mapped)));
    }
    if memory.released_bytes > 0 {
        text.push_str(&format!("; {} given back under memory pressure", bytes(memory.released_bytes)));
    }
    Some(text)
}

/// Mapped bytes that are worth a word: fewer are the program itself.
const MAPPED_LEAST: u64 = 64 << 20;

/// Memory for a status line: `1.2/4.3 GiB`, with mapped files `60 MiB/4.3 GiB + 17 GiB mapped`.
pub fn memory_short(memory: &MemoryUse) -> Option<String> {
    let owned = bytes_of(memory.owned_bytes?, memory.budget_bytes);
    let mapped = memory.mapped_bytes.filter(|&mapped| mapped >= MAPPED_LEAST);
    Some(owned + &mapped.map_or_else(String::new, |mapped| format!(" + {} mapped", bytes(mapped))))
}

/// The warning that the expert cache has given memory back to the system, `total_bytes` since the start.
pub fn given_back(total_bytes: u64) -> String {
    format!(
        "Memory pressure: the expert cache gave back {}. Answers are slower until memory is free again.",
        bytes(total_bytes)
    )
}

#[cfg(test)]
mod tests {
    use moelten_engine::api::CacheStats;

    use super::*;

    #[test]
    fn sizes_have_units() {
        const GIB: u64 = 1 << 30;
        let parts = [(6 * GIB / 5, 43 * GIB / 10), (5 << 20, 45 * GIB / 2), (5, 0)];
        assert_eq!(
            parts.map(|(part, whole)| bytes_of(part, whole)),
            ["1.2/4.3 GiB", "5 MiB/22.5 GiB", "5 B/0 B"]
        );
        assert_eq!([0.5, 0.9996, 1.0].map(percent), ["50.0 %", "99.9 %", "100.0 %"]);
        assert_eq!([0, 999, 3920, 1_234_567].map(count), ["0", "999", "3,920", "1,234,567"]);
    }

    #[test]
    fn ages_are_in_words() {
        let ages = [30, 300, 7200, 86_400, 2 * 86_400].map(|seconds| ago(Duration::from_secs(seconds)));
        assert_eq!(ages, ["just now", "5 min ago", "2 hours ago", "24 hours ago", "2 days ago"]);
    }

    #[test]
    fn a_model_in_memory_has_no_cache() {
        let rows = rows(&GenerateStats { experts_used: 3, ..GenerateStats::default() });
        assert_eq!(
            rows.iter().map(|row| row.0).collect::<Vec<_>>(),
            ["prompt", "answer", "context", "experts"]
        );
    }

    #[test]
    fn the_cache_has_its_statistics() {
        let answer = CacheUse {
            used_bytes: 1000,
            missed_bytes: 250,
            read_bytes: 30 << 20,
            reading: Duration::from_millis(20),
            stall: Duration::from_millis(500),
            retries: 2,
            evicted: 1234,
            chosen: 10,
            predicted: 8,
            prefetched: 4,
            prefetched_used: 3,
            ..CacheUse::default()
        };
        let memory = MemoryUse {
            slot_bytes: 1 << 20,
            released_bytes: 2 << 20,
            owned_bytes: Some(40 << 20),
            mapped_bytes: Some(60 << 20),
            budget_bytes: 50 << 20,
        };
        let cache = Some(CacheStats { answer, ..CacheStats::default() });
        let (generated_tokens, generate_time) = (11, Duration::from_secs(2));
        let stats =
            GenerateStats { generated_tokens, generate_time, cache, memory, ..GenerateStats::default() };
        let text: Vec<_> =
            cache_rows(&stats).into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let expected = [
            "cache, answer: 75.0 % hits; 30 MiB read at 1.57 GB/s, 3 MiB per token; 1,234 evicted; stalled 0.50 s, 25.0 % of \
             the time",
            "prefetch: 80.0 % of the next layer's experts predicted; 4 prefetched, 75.0 % of them used",
            "disk: 2 reads succeeded only when retried",
            "memory: 40 MiB owned of a budget of 50 MiB; expert cache 1 MiB; `top` shows 100 MiB: 60 MiB of mapped files \
             are not owned; 2 MiB given back under memory pressure",
        ];
        assert_eq!(text, expected);
        // What is mapped of the program alone is left out of the status line.
        assert_eq!(memory_short(&memory).as_deref(), Some("40.0/50 MiB"));
        let mapped = MemoryUse { mapped_bytes: Some(3 << 30), ..memory };
        assert_eq!(memory_short(&mapped).as_deref(), Some("40.0/50 MiB + 3 GiB mapped"));
        assert_eq!(memory_short(&MemoryUse::default()), None);
    }

    #[test]
    fn a_gpu_has_a_row_of_its_own() {
        let gpu =
            GpuUse { computed: 30, visited: 40, held: 7, slots: 8, bytes: 4 << 20, exact: true, lost: false };
        let row = |gpu| cache_rows(&GenerateStats { gpu: Some(gpu), ..GenerateStats::default() });
        let words =
            "computed 75.0 % of the experts of decoded tokens, exact; 7 of 8 slots in 4 MiB hold experts";
        assert_eq!(row(gpu), [("GPU", words.to_owned())]);
        assert!(row(GpuUse { lost: true, ..gpu })[0].1.starts_with("not used"));
    }
}
