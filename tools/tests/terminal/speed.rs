//! What the chat costs while it computes: the time from a key to the screen, and the speed that drawing
//! takes from the model. Both depend on the machine, so they run only when they are asked for.
//! `docs/chat.md` has figures.
//!
//! ```sh
//! cargo test --release -p moelten-tools --test terminal speed -- --ignored --nocapture --test-threads 1
//! ```

use std::time::{Duration, Instant};

use moelten_testing::skip;
use serde_json::Value;

use crate::common::{clean, run};
use crate::pty::{Echo, Pty, Schedule};
use crate::tmux::ENDLESS;

/// Time of a frame, within which a key has to be on the screen.
const FRAME: Duration = Duration::from_millis(33);
/// Least time between two frames for keys.
const FRAME_KEY: Duration = Duration::from_millis(16);
/// Keys that are measured.
const KEYS: usize = 78;
/// Time between two keys; it is no multiple of the time of a frame.
const PAUSE: Duration = Duration::from_millis(37);
/// Seeds of answers that are compared; those that end early are left out.
const SEEDS: std::ops::Range<u32> = 1..60;
/// Answers that are compared.
const ANSWERS: usize = 5;
/// Tokens of an answer; at this speed they take some seconds.
const TOKENS: u64 = 300;
/// Part of the speed, and of one core, that the screen may take.
const LOSS_MAX: f64 = 0.02;
const SECOND: Duration = Duration::from_secs(1);
const QUESTION: &str = "Tell me a tale.";
/// A slow instruction set gives the small model the speed of a large one.
const SLOW: (&str, &str) = ("MOELTEN_ISA", "scalar");

/// One key on its way to the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    /// From before it was sent until it was seen, without what this thread waited for a core.
    whole: Duration,
    /// How long the drawing thread meanwhile computed.
    drawing: Duration,
    /// How long the drawing thread meanwhile waited for a core that others had.
    queued: Duration,
    /// How long the kernel alone took for the next key, there and back.
    kernel: Duration,
}

/// How long a key takes to the screen while the model computes with all cores: a fast model, whose text
/// changes the screen all the time, and one that computes long for each token. What passes in the program is
/// counted for every key; what passes in the kernel, which hands keys on when it finds a core, is beside it.
#[test]
#[ignore = "measures time; run it alone"]
fn speed_of_keys_while_the_model_computes() {
    for (name, variables) in [("a fast model", &[][..]), ("a slow model", &[SLOW][..])] {
        let Some(pty) = Pty::chat(120, 40, ENDLESS, variables) else { skip!("setsid is not installed") };
        let mut ways = ways(pty);
        let own = ways.iter().map(|way| way.drawing + way.queued).max().unwrap();
        let mut kernel: Vec<Duration> = ways.iter().map(|way| way.kernel).collect();
        ways.sort_unstable();
        kernel.sort_unstable();
        let (middle, most) = (KEYS / 2, KEYS * 95 / 100);
        println!("{name}, key to screen: median {:?}, 95 % {:?}", ways[middle].whole, ways[most].whole);
        println!("  the slowest: {:?}", ways[KEYS - 1]);
        println!("  the program alone, without waiting for a frame: at most {own:?}");
        println!("  the kernel alone: 95 % {:?}, at most {:?}", kernel[most], kernel[KEYS - 1]);
        assert!(ways[most].whole <= FRAME, "{ways:?}");
        assert!(own <= FRAME - FRAME_KEY, "{ways:?}");
    }
}

fn ways(mut pty: Pty) -> Vec<Way> {
    pty.until("Type a message");
    let (mut ways, mut echo) = (Vec::new(), Echo::open());
    while ways.len() < KEYS {
        let before = pty.computed();
        pty.rest(PAUSE);
        if pty.computed() - before < PAUSE / 2 {
            // The answer is over, or none has begun.
            pty.press("\u{15}");
            pty.rest(PAUSE);
            pty.press(&format!("{QUESTION}\r"));
            pty.rest(20 * PAUSE);
            continue;
        }
        if ways.len() % 13 == 0 {
            pty.press("\u{15}");
            pty.rest(PAUSE);
        }
        // Runes stand nowhere else.
        ways.push(way(&mut pty, &mut echo, char::from_u32(0x16a0 + ways.len() as u32).unwrap()));
    }
    ways
}

fn way(pty: &mut Pty, echo: &mut Echo, key: char) -> Way {
    let text = key.to_string();
    let (drawing, own, started) = (pty.drawing(), Schedule::of("/proc/thread-self"), Instant::now());
    pty.press(&text);
    pty.until(&text);
    let whole = started.elapsed();
    let waited = Schedule::of("/proc/thread-self").since(own).queued;
    let thread = pty.drawing().since(drawing);
    Way {
        whole: whole.saturating_sub(waited),
        drawing: thread.computed,
        queued: thread.queued,
        kernel: echo.key(key),
    }
}

/// What an answer took.
#[derive(Debug, Clone, Copy)]
struct Pace {
    tokens: u64,
    tokens_per_s: f64,
    /// Part of one core that drawing took meanwhile.
    drawing: f64,
}

/// Tokens per second of the same answers from `moelten run`, from a chat that draws them on a terminal of
/// 120 x 40, and from one that shows the experts too, in turn, with all cores. Each answer is compared with
/// the same one without a screen, which came just before or just after it.
#[test]
#[ignore = "measures time; run it alone"]
fn speed_of_answers_with_the_screen_and_without() {
    let mut changes: [Vec<f64>; 2] = Default::default();
    let mut drawing: [Vec<f64>; 2] = Default::default();
    for seed in SEEDS {
        let mut plain = without_screen(seed);
        if plain.tokens < TOKENS || changes[0].len() == ANSWERS {
            continue;
        }
        for experts in [false, true] {
            let Some(pace) = with_screen(seed, experts) else { skip!("setsid is not installed") };
            assert_eq!(pace.tokens, plain.tokens, "seed {seed}: another answer");
            let after = without_screen(seed);
            let around = (plain.tokens_per_s + after.tokens_per_s) / 2.0;
            changes[usize::from(experts)].push(pace.tokens_per_s / around - 1.0);
            drawing[usize::from(experts)].push(pace.drawing);
            plain = after;
        }
    }
    assert_eq!(changes[0].len(), ANSWERS, "answers of {TOKENS} tokens");
    for (index, name) in ["the screen", "the screen with the experts"].into_iter().enumerate() {
        let (change, share) = (median(&mut changes[index]), median(&mut drawing[index]));
        println!(
            "{name}: {:+.1} % tokens per second, drawing takes {:.1} % of one core",
            100.0 * change,
            100.0 * share
        );
        assert!(change > -LOSS_MAX, "{name}: {changes:?}");
        assert!(share < LOSS_MAX, "{name}: {drawing:?}");
    }
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn options(seed: u32) -> String {
    format!("--ctx 8k --temp 100 --top-k 0 --top-p 1 --min-p 0 --seed {seed} --max-tokens {TOKENS}")
}

fn without_screen(seed: u32) -> Pace {
    let mut command = clean(std::process::Command::new(env!("CARGO_BIN_EXE_moelten")));
    command.env_remove("MOELTEN_THREADS").env(SLOW.0, SLOW.1);
    command.args(["run", "--json", "-p", QUESTION]).args(options(seed).split(' '));
    let answer: Value = serde_json::from_slice(&run(&mut command, b"").fine().out).unwrap();
    let stats = &answer["stats"];
    Pace {
        tokens: stats["generated_tokens"].as_u64().unwrap(),
        tokens_per_s: stats["generated_tokens_per_s"].as_f64().unwrap(),
        drawing: 0.0,
    }
}

fn with_screen(seed: u32, experts: bool) -> Option<Pace> {
    let mut pty = Pty::chat(120, 40, &options(seed), &[SLOW])?;
    pty.until("Type a message");
    if experts {
        pty.press("\u{1b}OQ");
        pty.until("Each square is one expert.");
    }
    let (before, started) = (pty.drawing(), Instant::now());
    pty.press(&format!("{QUESTION}\r"));
    pty.rest(SECOND);
    let drawn = pty.drawing().since(before).computed.as_secs_f64() / started.elapsed().as_secs_f64();
    loop {
        let before = pty.computed();
        pty.rest(SECOND / 4);
        if pty.computed() - before < SECOND / 16 {
            break;
        }
    }
    let screen = pty.redrawn();
    let line = screen.split('[').find(|line| line.contains("tok/s, context")).expect("the line of figures");
    let words: Vec<&str> = line.split_whitespace().collect();
    Some(Pace {
        tokens: words[0].replace(',', "").parse().unwrap(),
        tokens_per_s: words[2].replace(',', "").parse().unwrap(),
        drawing: drawn,
    })
}
