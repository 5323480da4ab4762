//! What the system ends first when memory runs out. It must not know what the program does.

/// If memory runs out, this process should go before the desktop does. Refusals do not matter.
pub fn volunteer_for_the_oom_killer() {
    const SCORE: &str = "/proc/self/oom_score_adj";
    if cfg!(target_os = "linux") {
        let now = std::fs::read_to_string(SCORE).ok().and_then(|text| text.trim().parse::<i32>().ok());
        if now.is_some_and(|score| score < 500) {
            let _ = std::fs::write(SCORE, "500");
        }
    }
}
