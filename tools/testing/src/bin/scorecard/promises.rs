//! The promises of the program, their points and the tests that show whether they are kept: 100 points in
//! twelve areas. `docs/trust.md` explains them; a test keeps the two alike. It must not know results.

use crate::score::{Need, Promise};

use Need::{EveryTarget, LongRun, LongSoak, Nothing, Numbered, Test};

const fn promise(area: &'static str, points: u32, says: &'static str, needs: &'static [Need]) -> Promise {
    Promise { area, points, says, needs }
}

const MEMORY: &str = "Memory cap";
const MACHINE: &str = "Machine safety";
const INPUTS: &str = "Bad inputs";
const FAULTS: &str = "Faults";
const SAME: &str = "Determinism";
const FILES: &str = "Written files";
const FUZZ: &str = "Fuzzing";
const SOAK: &str = "Soak";
const SERVER: &str = "Server";
const TERMINAL: &str = "Terminal";
const FORESEEN: &str = "Prediction";
const SUPPLY: &str = "Supply chain";

/// All promises.
pub const PROMISES: &[Promise] = &[
    promise(
        MEMORY,
        9,
        "Every command owns at most its budget and 64 MiB, sampled while it works, also with hostile sizes",
        &[
            Test("prompts_of_megabytes_stay_within_the_budget"),
            Test("chats_stay_within_the_budget"),
            Test("answers_and_templates_stay_within_the_budget"),
            Test("measuring_stays_within_the_budget"),
            Test("commands_on_files_own_little"),
            Test("long_texts_are_measured_within_the_budget"),
        ],
    ),
    promise(
        MEMORY,
        3,
        "Templates, tokenising and the chat stay within allowances of their own",
        &[Numbered('b', 2, 60, 60), Numbered('b', 2, 65, 66), Test("texts_that_fit_are_read_as_they_are")],
    ),
    promise(
        MEMORY,
        3,
        "Small containers leave room for others; memory that the system refuses is exit code 5",
        &[
            Test("ram_auto_leaves_a_share_in_a_small_container"),
            Numbered('f', 2, 15, 15),
            Numbered('f', 2, 18, 18),
        ],
    ),
    promise(
        MACHINE,
        8,
        "Nothing is killed within a group of budget and 256 MiB; the cache shrinks when others need memory",
        &[Numbered('f', 2, 16, 17), Test("the_oom_killer_prefers_it")],
    ),
    promise(INPUTS, 4, "GGUF files: B01 to B28", &[Numbered('b', 2, 1, 28)]),
    promise(INPUTS, 3, "safetensors files: B29 to B43", &[Numbered('b', 2, 29, 43)]),
    promise(INPUTS, 3, "Configurations, tokenizers and templates: B44 to B63", &[Numbered('b', 2, 44, 63)]),
    promise(
        INPUTS,
        2,
        "Texts, paths and quantisation: B64 to B69, B81 to B88",
        &[Numbered('b', 2, 64, 69), Numbered('b', 2, 81, 88)],
    ),
    promise(
        FAULTS,
        4,
        "Disks that fail, stall, are cut, replaced or overwritten: F01 to F08",
        &[Numbered('f', 2, 1, 8)],
    ),
    promise(FAULTS, 3, "Writing that fails at any point: F09 to F12", &[Numbered('f', 2, 9, 12)]),
    promise(
        FAULTS,
        4,
        "Signals, memory, limits, streams, clocks, processors: F13 to F21, F23, F24, F26",
        &[Numbered('f', 2, 13, 21), Numbered('f', 2, 23, 24), Numbered('f', 2, 26, 26)],
    ),
    promise(
        FAULTS,
        1,
        "Downloads that are refused, cut, damaged or led elsewhere: F25",
        &[
            Test("f25_refusals_say_what_to_do"),
            Test("f25_busy_servers_are_asked_again_and_dead_ones_given_up"),
            Test("f25_cut_connections_go_on_where_they_ended"),
            Test("f25_wrong_bytes_of_the_right_length_are_deleted"),
            Test("f25_the_token_stays_with_the_hub"),
            Test("offline_nothing_is_asked"),
        ],
    ),
    promise(
        SAME,
        5,
        "100 runs of each command over threads, budgets, reading and prefetching: one result for an instruction set",
        &[Numbered('i', 1, 2, 3)],
    ),
    promise(
        SAME,
        5,
        "No bit of a logit depends on threads, chunks, caches or neighbours in a batch; restarts go on the same",
        &[
            Test("a_saved_sequence_continues_with_the_same_bits"),
            Test("i2_i3_100_logits"),
            Numbered('f', 2, 3, 3),
        ],
    ),
    promise(
        FILES,
        6,
        "A file appears complete or not at all: full disks, kills, failed syncs and renames, power cuts",
        &[Numbered('f', 2, 9, 12), Test("inputs_are_never_outputs")],
    ),
    promise(
        FILES,
        4,
        "The bytes of a written file depend on source and options alone, on every machine",
        &[Numbered('i', 1, 4, 4)],
    ),
    promise(FUZZ, 4, "Every fuzz target runs for 20 s with each change and finds nothing", &[EveryTarget]),
    promise(FUZZ, 4, "The recorded long runs took at least 4 CPU hours and no find is open", &[LongRun(4)]),
    promise(
        SOAK,
        4,
        "Chat, run and quantise in turns, full disks, little memory, 1,000 resizes, 200 kills: in short",
        &[
            Test("soak_of_seconds"),
            Test("f20_a_storm_of_a_thousand_resizes"),
            Test("f11_killed_at_200_points"),
            Test("f09_no_room_at_200_points"),
            Test("f17_the_cache_shrinks_when_others_need_memory"),
        ],
    ),
    promise(
        SOAK,
        4,
        "The same for an hour: no growth, no lost conversation, no orphan file",
        &[LongSoak(3600)],
    ),
    promise(
        SERVER,
        6,
        "No command waits for requests: there is no server that B70 to B80 and F22 could be about",
        &[Numbered('f', 2, 22, 22)],
    ),
    promise(
        TERMINAL,
        2,
        "No control byte of a model or a file reaches the terminal",
        &[Numbered('b', 2, 68, 68), Numbered('b', 2, 10, 10), Numbered('b', 2, 61, 61)],
    ),
    promise(
        TERMINAL,
        2,
        "The terminal is as before however the program ends; any size; suspended and resumed",
        &[Numbered('f', 2, 13, 14), Numbered('f', 2, 20, 20)],
    ),
    promise(
        FORESEEN,
        2,
        "Memory that `fit` foresees is what is then owned",
        &[Test("what_is_foreseen_is_what_is_then_measured")],
    ),
    promise(
        FORESEEN,
        2,
        "Speed that `fit` foresees is within 25 % on three machines",
        &[Nothing("measured by hand on one machine (docs/memory.md), not by a test")],
    ),
    promise(
        SUPPLY,
        2,
        "Dependencies have known licences, known checksums and no known advisory; models run without a network",
        &[
            Test("licences_are_allowed"),
            Test("no_dependency_has_an_open_advisory"),
            Test("every_dependency_is_locked"),
            Numbered('i', 2, 14, 14),
        ],
    ),
    promise(
        SUPPLY,
        1,
        "Releases are reproducible, with a bill of materials and signed sums",
        &[
            Test("the_bill_of_materials_lists_what_is_in_the_program"),
            Test("the_sums_of_a_release_are_signed"),
            Nothing(
                "no release was published; that two builds are equal is compared by hand (docs/release.md)",
            ),
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    const DOCS: &str = include_str!("../../../../../docs/trust.md");

    #[test]
    fn there_are_100_points() {
        assert_eq!(PROMISES.iter().map(|promise| promise.points).sum::<u32>(), 100);
    }

    #[test]
    fn the_documentation_has_every_promise() {
        for promise in PROMISES {
            let row = format!("| {} | {} | {} |", promise.area, promise.points, promise.says);
            assert!(DOCS.contains(&row), "docs/trust.md lacks the row\n{row}");
        }
        let rows =
            DOCS.lines().filter(|line| line.starts_with("| ") && line.matches('|').count() >= 5).count();
        assert_eq!(rows, PROMISES.len() + 1, "one row for each, and the head of the table");
    }
}
