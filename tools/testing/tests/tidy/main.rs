//! The rules of the source tree, each a test: `cargo test --release -p moelten-testing --test tidy`.
//!
//! With `-- --nocapture`, `TIDY=engine` lists the faults of one crate and `TIDY=engine:comments` those of one
//! rule in it, whether they are excused or not.

mod circles;
mod items;
mod lex;
mod paths;
mod rules;
mod tree;

use rules::Fault;
use tree::{CRATES, Source, sources};

/// Rules that do not hold in a crate yet.
const NOT_YET: [(&str, &str); 0] = [];

type Rule = fn(&[Source]) -> Vec<Fault>;

/// Every rule with its name.
const RULES: [(&str, Rule); 11] = [
    ("crates", rules::crates),
    ("circles", rules::circles),
    ("files", rules::files),
    ("openings", rules::openings),
    ("functions", rules::functions_rule),
    ("comments", rules::comments),
    ("unsafe", rules::unsafe_code),
    ("threads", rules::threads),
    ("types", rules::types),
    ("docs", rules::docs),
    ("families", rules::families),
];

fn excused(owner: &str, rule: &str) -> bool {
    NOT_YET.contains(&(owner, rule))
}

/// Faults for each crate and rule, as a table.
fn table(faults: &[(&str, Vec<Fault>)]) -> String {
    let mut out = format!("{:10}", "");
    CRATES.iter().for_each(|owner| out.push_str(&format!("{:>9}", owner.name)));
    for (rule, faults) in faults {
        out.push_str(&format!("\n{rule:10}"));
        for owner in &CRATES {
            let count = faults.iter().filter(|fault| fault.owner == owner.name).count();
            let mark = if excused(owner.name, rule) { "*" } else { " " };
            out.push_str(&format!("{count:>8}{mark}"));
        }
    }
    out.push_str("\n* not held yet\n");
    out
}

#[test]
fn the_tree_is_tidy() {
    let faults: Vec<(&str, Vec<Fault>)> = RULES.iter().map(|&(name, rule)| (name, rule(sources()))).collect();
    let asked = std::env::var("TIDY").unwrap_or_default();
    let mut broken = String::new();
    for (rule, faults) in &faults {
        for Fault { owner, place, text } in faults {
            let line = format!("{rule}: {place}: {text}\n");
            if asked == *owner || asked == format!("{owner}:{rule}") {
                print!("{line}");
            }
            if !excused(owner, rule) {
                broken.push_str(&line);
            }
        }
    }
    for (owner, rule) in NOT_YET {
        let held =
            faults.iter().any(|(name, all)| *name == rule && all.iter().all(|fault| fault.owner != owner));
        if held {
            println!("{rule} holds in {owner}: take it from NOT_YET");
        }
    }
    let table = table(&faults);
    println!("{table}");
    assert!(broken.is_empty(), "\n{broken}\n{table}");
}
