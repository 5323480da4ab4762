//! Numbers of an answer in words: rows for `/stats` and for whoever else shows them. It must not know where they came
//! from.

use moelten_engine::api::{CacheStats, CacheUse, GenerateStats};

/// A size for people, in powers of ten: 12.4 MB.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Part of a size in the unit of the whole, unless it is far less: 1.2/4.3 GB, 95.1 MB/4.3 GB.
pub fn bytes_of(part: u64, whole: u64) -> String {
    let text = bytes(whole);
    let (number, unit) = text.split_once(' ').unwrap_or((&text, ""));
    let shown: f64 = number.parse().unwrap_or(0.0);
    if shown == 0.0 || part < whole / 50 {
        return format!("{}/{text}", bytes(part));
    }
    format!("{:.1}/{number} {unit}", part as f64 / (whole as f64 / shown))
}

/// A share in percent, so that nothing but all is 100 %.
pub fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    if percent < 100.0 && percent > 99.9 { "99.9 %".to_owned() } else { format!("{percent:.1} %") }
}

/// Everything known of an answer, a row each: name and value.
pub fn rows(stats: &GenerateStats) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        (
            "prompt",
            format!(
                "{} tokens, {} of them still in memory; the others took {:.2} s ({:.1} tok/s)",
                stats.prompt_tokens,
                stats.cached_tokens,
                stats.prompt_time.as_secs_f64(),
                stats.prompt_tokens_per_s()
            ),
        ),
        (
            "answer",
            format!(
                "{} tokens in {:.2} s ({:.1} tok/s)",
                stats.generated_tokens,
                stats.generate_time.as_secs_f64(),
                stats.generated_tokens_per_s()
            ),
        ),
        ("context", format!("{} of {} tokens", stats.context_used, stats.context_size)),
    ];
    if stats.experts_used > 0 {
        let mb = stats.expert_bytes as f64 / 1e6;
        rows.push(("experts", format!("{} multiplied, {mb:.1} MB of weights", stats.experts_used)));
    }
    rows.extend(cache_rows(stats));
    rows
}

/// What the expert cache did; nothing if all experts are in memory.
pub fn cache_rows(stats: &GenerateStats) -> Vec<(&'static str, String)> {
    let Some(cache) = &stats.cache else { return Vec::new() };
    let read = stats.prompt_tokens - stats.cached_tokens;
    // The first token comes out of the prompt.
    let written = stats.generated_tokens.saturating_sub(1);
    let mut rows: Vec<_> = [("cache, prompt", cache.prompt, read), ("cache, answer", cache.answer, written)]
        .into_iter()
        .filter_map(|(name, used, tokens)| Some((name, cache_use(&used, tokens)?)))
        .collect();
    if let Some(guesses) = prefetch(&cache.answer).or_else(|| prefetch(&cache.prompt)) {
        rows.push(("prefetch", guesses));
    }
    let retries = cache.prompt.retries + cache.answer.retries;
    if retries > 0 {
        rows.push(("disk", format!("{retries} reads failed at first and came when tried again")));
    }
    rows.push(("memory", memory(cache)));
    rows
}

fn cache_use(used: &CacheUse, tokens: usize) -> Option<String> {
    let hits = used.hit_rate()?;
    let per_token = bytes(used.read_bytes / tokens.max(1) as u64);
    let speed = used.read_gb_per_s().map_or_else(String::new, |speed| format!(" at {speed:.2} GB/s"));
    let stall = used.stall.as_secs_f64();
    Some(format!("{} hits; {per_token} read per token{speed}; waited {stall:.2} s", percent(hits)))
}

fn prefetch(used: &CacheUse) -> Option<String> {
    let foreseen = percent(used.foreseen_share()?);
    let read = used.useful_share().map_or_else(
        || "none had to be read".to_owned(),
        |share| format!("{} read ahead, {} of them used", used.guesses_read, percent(share)),
    );
    Some(format!("{foreseen} of the next layer's experts foreseen; {read}"))
}

fn memory(cache: &CacheStats) -> String {
    let owned = cache.owned_bytes.map_or_else(|| "unknown".to_owned(), bytes);
    let given_back = match cache.given_back_bytes {
        0 => String::new(),
        given => format!("; {} given back because memory was tight", bytes(given)),
    };
    let (budget, slots) = (bytes(cache.budget_bytes), bytes(cache.slot_bytes));
    format!("{owned} owned now, at most {budget}; {slots} of it for experts{given_back}")
}

/// What to say when the cache has given back more than before.
pub fn given_back(total_bytes: u64) -> String {
    format!(
        "Memory got tight: the expert cache gave {} back, answers will be slower. It takes it again when enough stays free.",
        bytes(total_bytes)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sizes_have_units() {
        let shown: Vec<_> = [0, 999, 1000, 12_437_000, 999_999_999].map(bytes).into();
        assert_eq!(shown, ["0 B", "999 B", "1.0 kB", "12.4 MB", "1.0 GB"]);
        let parts = [(1_200_000_000, 4_300_000_000), (5_000_000, 22_500_000_000), (5, 0)];
        assert_eq!(
            parts.map(|(part, whole)| bytes_of(part, whole)),
            ["1.2/4.3 GB", "5.0 MB/22.5 GB", "5 B/0 B"]
        );
        assert_eq!([0.5, 0.9996, 1.0].map(percent), ["50.0 %", "99.9 %", "100.0 %"]);
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
    fn a_cache_tells_what_it_did() {
        let answer = CacheUse {
            used_bytes: 1000,
            missed_bytes: 250,
            read_bytes: 30_000_000,
            reading: Duration::from_millis(20),
            stall: Duration::from_millis(500),
            retries: 2,
            chosen: 10,
            foreseen: 8,
            guesses_read: 4,
            guesses_used: 3,
        };
        let cache = CacheStats {
            answer,
            slot_bytes: 1_000_000,
            given_back_bytes: 2_000_000,
            owned_bytes: Some(40_000_000),
            budget_bytes: 50_000_000,
            ..CacheStats::default()
        };
        let stats = GenerateStats { generated_tokens: 11, cache: Some(cache), ..GenerateStats::default() };
        let text: Vec<_> =
            cache_rows(&stats).into_iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let expected = [
            "cache, answer: 75.0 % hits; 3.0 MB read per token at 1.50 GB/s; waited 0.50 s",
            "prefetch: 80.0 % of the next layer's experts foreseen; 4 read ahead, 75.0 % of them used",
            "disk: 2 reads failed at first and came when tried again",
            "memory: 40.0 MB owned now, at most 50.0 MB; 1.0 MB of it for experts; 2.0 MB given back because memory was \
             tight",
        ];
        assert_eq!(text, expected);
    }
}
