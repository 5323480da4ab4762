//! Models that do not fit, from end to end: files that change, little memory, refusals of the system.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::gguf::{Gguf, Value};
use moelten_testing::skip;

use crate::common::cgroup::{self, Group};
use crate::common::peak::Peak;
use crate::common::{Outcome, builtin, clean, finish, moelten, run};

/// Options that keep a run going for thousands of tokens.
const LONG: [&str; 12] =
    ["-p", "hello", "--temp", "100", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "1"];

/// A copy of the built-in model that may be damaged.
fn victim(folder: &Path) -> PathBuf {
    let path = folder.join("victim.gguf");
    fs::copy(builtin(), &path).unwrap();
    path
}

/// Starts a long run and waits for its first word.
fn begin(model: &Path, options: &[&str]) -> Child {
    let mut command = moelten();
    command.env("MOELTEN_ISA", "scalar").arg("run").arg(model).args(LONG).args(options);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    child
}

/// Truncates the file of a run that has begun.
fn cut(options: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let model = victim(folder.path());
    let child = begin(&model, options);
    fs::File::options().write(true).open(&model).unwrap().set_len(8192).unwrap();
    let outcome = finish(child, Instant::now());
    assert!(outcome.took < Duration::from_secs(5), "{outcome:?}");
    outcome
}

#[test]
fn f05_a_file_that_is_cut_while_experts_are_read_directly() {
    let outcome = cut(&["--ram", "min", "--io", "direct", "--ctx", "8k"]).refused(6, "E-IO-03");
    assert!(outcome.err.contains("bytes too early"), "{outcome:?}");
}

#[test]
fn f05_a_file_that_is_cut_while_it_is_mapped() {
    // Mapped in place: access to the missing pages raises SIGBUS.
    let outcome = cut(&["--ctx", "8k"]).refused(6, "E-IO-06");
    assert!(outcome.err.contains("became shorter"), "{outcome:?}");
    // Some experts at a time: the first access reports it.
    let outcome = cut(&["--ram", "min", "--io", "mmap", "--ctx", "8k"]);
    assert!(outcome.err.contains("error[E-IO-03]") || outcome.err.contains("error[E-IO-06]"), "{outcome:?}");
    assert_eq!(outcome.code, Some(6), "{outcome:?}");
}

#[test]
fn f07_a_packed_file_that_is_overwritten_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("packed.gguf");
    run(moelten().arg("quantize").arg(builtin()).arg(&packed).args(["--layout", "packed"]), b"").fine();
    let options = ["--ram", "min", "--io", "direct", "--max-tokens", "40"];
    let whole = finish(begin(&packed, &options), Instant::now()).fine();
    // One bit of the last expert's weights, which lie at the end of the file.
    let mut bytes = fs::read(&packed).unwrap();
    let last = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    bytes[last] ^= 1;
    fs::write(&packed, &bytes).unwrap();
    let found = run(moelten().arg("run").arg(&packed).args(LONG).args(options), b"").refused(6, "E-IO-05");
    assert!(found.err.contains("checksum mismatch"), "{found:?}");
    assert!(whole.out.len() > found.out.len(), "the answer so far may be kept, no more");
}

#[test]
fn f06_a_file_that_is_replaced_goes_on_with_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let model = victim(folder.path());
    for io in ["direct", "mmap"] {
        let options = ["--ram", "min", "--io", io, "--max-tokens", "120"];
        let undisturbed = finish(begin(&model, &options), Instant::now()).fine();
        let child = begin(&model, &options);
        let other = folder.path().join("other");
        fs::write(&other, "not a model ".repeat(1000)).unwrap();
        fs::rename(&other, &model).unwrap();
        assert!(finish(child, Instant::now()).fine().out == undisturbed.out, "{io}");
        fs::copy(builtin(), &other).unwrap();
        fs::rename(&other, &model).unwrap();
    }
}

#[test]
fn f01_a_chat_goes_on_after_a_failed_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = victim(folder.path());
    let mut command = moelten();
    command.arg("chat").arg(&model).args(["--ram", "min", "--io", "direct", "--max-tokens", "8"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"hello\n").unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    fs::File::options().write(true).open(&model).unwrap().set_len(8192).unwrap();
    input.write_all(b"tell me about a dog\nand a cat\n").unwrap();
    drop(input);
    let outcome = finish(child, Instant::now()).harmless();
    // On a slow machine the first answer may not be complete yet.
    let told = outcome.err.matches("error[E-IO-03]").count();
    assert!((2..=3).contains(&told), "each question hears of it: {outcome:?}");
    assert!(!outcome.err.contains("bug"), "{outcome:?}");
}

/// Runs the program under limits in front of it.
fn limited(before: &[&str], options: &[&str]) -> Outcome {
    let mut command = clean(Command::new(before[0]));
    command.args(&before[1..]).arg(env!("CARGO_BIN_EXE_moelten")).arg("run").arg(builtin());
    run(command.args(["-p", "hello", "--max-tokens", "4", "--ctx", "64"]).args(options), b"")
}

#[test]
fn f18_few_open_files_are_enough() {
    for io in ["direct", "mmap"] {
        let outcome = limited(&["prlimit", "--nofile=32"], &["--ram", "min", "--io", io]);
        assert!(!outcome.fine().err.contains("error"), "{io}");
    }
}

#[test]
fn f18_threads_that_do_not_start_are_a_clean_error() {
    // The limit does not hold for root.
    let user = ["setpriv", "--reuid=64123", "--regid=64123", "--clear-groups"];
    if limited(&user, &["--ram", "min"]).code != Some(0) {
        skip!("setpriv cannot run the program as another user; that needs root and util-linux");
    }
    let mut codes = Vec::new();
    for processes in 1..10 {
        let limit = format!("--nproc={processes}");
        let before = [&["prlimit", limit.as_str()], &user[..]].concat();
        let outcome = limited(&before, &["--ram", "min", "--io", "direct"]).harmless();
        assert!(!outcome.err.contains("bug"), "{processes}: {outcome:?}");
        assert!(matches!(outcome.code, Some(0 | 6)), "{processes}: {outcome:?}");
        codes.push(outcome.code);
    }
    assert_eq!(codes.last(), Some(&Some(0)), "{codes:?}");
    assert!(codes.contains(&Some(6)), "the limit was felt: {codes:?}");
}

#[test]
fn f15_f18_memory_that_the_system_refuses_is_a_clean_error() {
    let with = |limit: u64, ram: &str| {
        let limit = format!("--as={limit}");
        limited(&["prlimit", &limit], &["--ram", ram, "--io", "direct"])
    };
    let least = (5..80).map(|step| step * 4_000_000).find(|&limit| with(limit, "min").code == Some(0));
    let least = least.expect("320 MB are enough");
    let mut codes = Vec::new();
    // Slots or thread stacks fail first, or a small allocation if the slots just fit.
    for limit in (0..24).map(|step| least - 4_000_000 + step * 1_500_000) {
        let outcome = with(limit, "4G").harmless();
        assert!(matches!(outcome.code, Some(0 | 5 | 6)), "{limit}: {outcome:?}");
        assert!(!outcome.err.contains("bug"), "{limit}: {outcome:?}");
        codes.push(outcome.code);
    }
    assert!(codes.contains(&Some(5)), "{codes:?}");
}

/// Copies of each expert of the built-in model.
const COPIES: u64 = 12;

/// The routers of a model with more experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Router {
    /// Any expert is as likely as another.
    Random,
    /// The copies of an expert are nearly as likely as it was, so that the model still tells tales.
    Near,
}

/// The built-in model with many more experts and a random router: about 120 MB.
pub fn many_experts(target: &Path) {
    multiply_experts(target, Router::Random);
}

#[test]
#[ignore = "writes the model of the documentation's pictures to the file that MOELTEN_PICTURES names"]
fn write_the_model_of_the_pictures() {
    let file = std::env::var_os("MOELTEN_PICTURES").expect("MOELTEN_PICTURES names a file");
    multiply_experts(Path::new(&file), Router::Near);
}

fn multiply_experts(target: &Path, router: Router) {
    let source = Gguf::open(&builtin()).unwrap();
    let metadata: Vec<_> = (source.metadata.iter())
        .map(|(key, value)| match value {
            Value::U32(count) if key.ends_with(".expert_count") => {
                (key.to_owned(), Value::U32(count * u32::try_from(COPIES).unwrap()))
            }
            other => (key.to_owned(), other.clone()),
        })
        .collect();
    let multiplied = |name: &str| name.contains("_exps.") || name.contains("ffn_gate_inp.");
    let plan: Vec<_> = (source.catalog.tensors().iter())
        .map(|t| {
            let mut shape = t.shape.clone();
            if multiplied(&t.name) {
                shape[0] *= COPIES;
            }
            TensorPlan { name: t.name.clone(), storage: t.storage, shape }
        })
        .collect();
    let mut writer = GgufWriter::create(target, &metadata, &plan, &[]).unwrap();
    let mut state = 1_u64;
    for tensor in source.catalog.tensors() {
        let bytes = source.catalog.bytes(tensor);
        if tensor.name.contains("ffn_gate_inp.") {
            assert_eq!(bytes.len() as u64, 4 * tensor.shape.iter().product::<u64>(), "routers are F32");
            let mut random = || {
                // Knuth's MMIX generator; its high bits are random enough for weights.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
            };
            let own = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            let own: Vec<f32> = own.collect();
            let size = (own.iter().map(|x| x * x).sum::<f32>() / own.len() as f32).sqrt();
            let copies = own.iter().cycle().take(own.len() * COPIES as usize);
            let weights = copies.flat_map(|&own| match router {
                Router::Random => random().to_le_bytes(),
                Router::Near => (own + 0.1 * size * random()).to_le_bytes(),
            });
            writer.write_tensor(&tensor.name, &weights.collect::<Vec<u8>>()).unwrap();
        } else if multiplied(&tensor.name) {
            writer.write_tensor(&tensor.name, &bytes.repeat(COPIES as usize)).unwrap();
        } else {
            writer.write_tensor(&tensor.name, bytes).unwrap();
        }
    }
    writer.finish().unwrap();
}

/// F16, and the limit of `--ram`: sampled every few milliseconds over a long prompt and 200 tokens.
#[test]
fn f16_a_budget_is_kept_inside_a_group_that_is_little_larger() {
    const BUDGET: u64 = 72 << 20;
    let Some(group) = Group::new(BUDGET + (256 << 20)) else {
        skip!("{}", cgroup::NONE);
    };
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("many.gguf");
    many_experts(&model);
    let prompt = folder.path().join("prompt");
    fs::write(&prompt, "Once there was a dog who had a cat. ".repeat(100)).unwrap();
    let script = "echo $$ > \"$GROUP\" && exec \"$@\"";
    let mut command = clean(Command::new("sh"));
    command.env("GROUP", group.members()).args(["-c", script, "sh", env!("CARGO_BIN_EXE_moelten"), "run"]);
    command.arg(&model).arg("-f").arg(&prompt).args(["--ram", "72M", "--ctx", "2k", "--max-tokens", "200"]);
    command.args(["--seed", "1", "--temp", "100", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    let (started, child) = (Instant::now(), command.spawn().unwrap());
    let peak = Peak::of(&child, Duration::from_millis(5));
    let outcome = finish(child, started).fine();
    let most = peak.bytes();
    assert_eq!(group.kills(), 0, "{outcome:?}");
    assert!(most <= BUDGET + (64 << 20), "{most} bytes owned of {BUDGET}");
    let answer: serde_json::Value = serde_json::from_slice(&outcome.out).unwrap();
    assert!(answer["stats"]["prompt_tokens"].as_u64().unwrap() > 500, "{answer}");
    println!(
        "{} MiB owned of {}, {} MiB of the group, {:?}",
        most >> 20,
        BUDGET >> 20,
        group.peak() >> 20,
        outcome.took
    );
}
