//! What the chat costs while it computes: the time from a key to the screen, and the speed that drawing
//! takes from the model. Both depend on the machine, so they run only when they are asked for.
//! `docs/chat.md` has figures.
//!
//! ```sh
//! cargo test --release -p moelten-tools --test terminal speed -- --ignored --nocapture --test-threads 1
//! ```

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use moelten_testing::skip;
use serde_json::Value;

use crate::common::{clean, run};
use crate::tmux::{ENDLESS, Terminal};

/// Time of a frame, within which a key has to be on the screen.
const FRAME: Duration = Duration::from_millis(33);
/// Keys that are measured.
const KEYS: u32 = 78;
/// Seeds of answers that are compared; those that end early are left out.
const SEEDS: std::ops::Range<u32> = 1..60;
/// Answers that are compared.
const ANSWERS: usize = 5;
/// Tokens of an answer; at this speed they take some seconds.
const TOKENS: u64 = 300;
const QUESTION: &str = "Tell me a tale.";
/// A slow instruction set gives the small model the speed of a large one.
const SLOW: (&str, &str) = ("MOELTEN_ISA", "scalar");

/// Nanoseconds that the drawing thread of a chat has computed, and has waited for a core while it could
/// compute.
fn drawing(terminal: &Terminal) -> [u64; 2] {
    let pid = fs::read_to_string(terminal.file("pid")).unwrap().trim().to_owned();
    // The first thread of the process draws.
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap());
    [numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)]
}

/// One key on its way to the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    /// From before it was sent until it was seen.
    whole: Duration,
    /// Until tmux had sent it: a process starts for that.
    sent: Duration,
    /// How long the drawing thread meanwhile waited for a core that others had.
    queued: Duration,
}

/// How long a key takes to the screen while the model computes. On a quiet machine the slowest takes less
/// than a frame; where others compute, starting tmux alone may take longer, so only the median has to.
#[test]
#[ignore = "measures time; run it alone"]
fn speed_of_keys_while_the_model_computes() {
    let Some(terminal) = Terminal::open(120, 40) else { skip!("tmux is not installed") };
    terminal.begin(ENDLESS);
    terminal.see("Type a message");
    let seen = terminal.file("seen");
    let pipe = format!("cat > {}", seen.display());
    assert!(terminal.command().args(["pipe-pane", "-O", &pipe]).status().unwrap().success());
    let mut ways = Vec::new();
    for round in 0..KEYS {
        if round % 13 == 0 {
            terminal.press("C-u");
            if !terminal.sight().contains("writing, ") {
                terminal.enter(QUESTION);
            }
            terminal.until("computing", |sight| sight.contains("writing, "));
        }
        // Runes, one after the other, stand nowhere else.
        ways.push(way(&terminal, char::from_u32(0x16a0 + round).unwrap()));
        sleep(Duration::from_millis(37));
    }
    ways.sort_unstable();
    let at = |part: usize| ways[(ways.len() - 1) * part / 100];
    println!("key to screen: median {:?}, 95 % within {:?}", at(50).whole, at(95).whole);
    println!("the slowest: {:?}", at(100));
    assert!(at(50).whole <= FRAME, "{:?}", at(50));
}

fn way(terminal: &Terminal, key: char) -> Way {
    let (key, seen) = (key.to_string(), terminal.file("seen"));
    let before = usize::try_from(fs::metadata(&seen).unwrap().len()).unwrap();
    let ([_, queued], started) = (drawing(terminal), Instant::now());
    assert!(terminal.command().args(["send-keys", "-l", &key]).status().unwrap().success());
    let sent = started.elapsed();
    loop {
        let bytes = fs::read(&seen).unwrap();
        let new = &bytes[before.min(bytes.len())..];
        if new.windows(key.len()).any(|window| window == key.as_bytes()) {
            let queued = Duration::from_nanos(drawing(terminal)[1] - queued);
            return Way { whole: started.elapsed(), sent, queued };
        }
        assert!(started.elapsed().as_secs() < 5, "{key} never came");
        sleep(Duration::from_micros(200));
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
/// 120 x 40, and from one that shows the experts too, in turn.
#[test]
#[ignore = "measures time; run it alone"]
fn speed_of_answers_with_the_screen_and_without() {
    if Terminal::open(120, 40).is_none() {
        skip!("tmux is not installed");
    }
    let mut all: [Vec<Pace>; 3] = Default::default();
    for seed in SEEDS {
        let plain = without_screen(seed);
        if plain.tokens < TOKENS || all[0].len() == ANSWERS {
            continue;
        }
        all[0].push(plain);
        for experts in [false, true] {
            let pace = with_screen(seed, experts);
            assert_eq!(pace.tokens, plain.tokens, "seed {seed}: another answer");
            all[1 + usize::from(experts)].push(pace);
        }
    }
    assert_eq!(all[0].len(), ANSWERS, "answers of {TOKENS} tokens");
    let median = |paces: &[Pace], of: fn(&Pace) -> f64| {
        let mut numbers: Vec<f64> = paces.iter().map(of).collect();
        numbers.sort_by(f64::total_cmp);
        numbers[numbers.len() / 2]
    };
    let speed = median(&all[0], |pace| pace.tokens_per_s);
    for (name, paces) in ["moelten run", "the screen", "the screen with the experts"].iter().zip(&all) {
        let own = median(paces, |pace| pace.tokens_per_s);
        let drawing = median(paces, |pace| pace.drawing);
        let (change, share) = (100.0 * (own / speed - 1.0), 100.0 * drawing);
        println!("{name}: {own:.1} tok/s ({change:+.1} %), drawing takes {share:.1} % of one core");
        // The speed itself changes with what else runs here; the time of the drawing thread does not.
        assert!(drawing < 0.02, "{name}: {paces:?}");
    }
}

fn options(seed: u32) -> String {
    format!("--ctx 8k --temp 100 --top-k 0 --top-p 1 --min-p 0 --seed {seed} --max-tokens {TOKENS}")
}

fn without_screen(seed: u32) -> Pace {
    let mut command = clean(std::process::Command::new(env!("CARGO_BIN_EXE_moelten")));
    command.env(SLOW.0, SLOW.1).args(["run", "--json", "-p", QUESTION]).args(options(seed).split(' '));
    let answer: Value = serde_json::from_slice(&run(&mut command, b"").fine().out).unwrap();
    let stats = &answer["stats"];
    Pace {
        tokens: stats["generated_tokens"].as_u64().unwrap(),
        tokens_per_s: stats["generated_tokens_per_s"].as_f64().unwrap(),
        drawing: 0.0,
    }
}

fn with_screen(seed: u32, experts: bool) -> Pace {
    let terminal = Terminal::open(120, 40).expect("it was there before");
    terminal.enter(&format!("export {}={}", SLOW.0, SLOW.1));
    terminal.begin(&options(seed));
    terminal.see("Type a message");
    if experts {
        terminal.press("F2");
        terminal.see("All of them are in RAM.");
    }
    terminal.enter(QUESTION);
    terminal.see("writing, ");
    let ([computed, _], started) = (drawing(&terminal), Instant::now());
    // Rarely: looking takes time from the cores, too.
    sleep(Duration::from_secs(1));
    let ([later, _], span) = (drawing(&terminal), started.elapsed());
    let done = Instant::now();
    while !terminal.sight().contains("tok/s, context") {
        assert!(done.elapsed().as_secs() < 60, "no answer on\n{}", terminal.sight());
        sleep(Duration::from_millis(250));
    }
    let sight = terminal.sight();
    let line = sight.lines().find(|line| line.contains("tok/s, context")).unwrap();
    let words: Vec<&str> = line.trim().trim_start_matches('[').split_whitespace().collect();
    terminal.press("C-d");
    Pace {
        tokens: words[0].replace(',', "").parse().unwrap(),
        tokens_per_s: words[2].replace(',', "").parse().unwrap(),
        drawing: (later - computed) as f64 / span.as_nanos() as f64,
    }
}
