//! Exit codes and messages for wrong paths, missing rights, unusual environments, signals, closed pipes.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use moelten_loader::container::gguf::{Array, Value};
use moelten_testing::skip;

use crate::common::{BRIEF, Outcome, args, builtin, clean, finish, mini, model_with, moelten, run};

fn ask(model: impl AsRef<OsStr>) -> Outcome {
    run(moelten().arg("run").arg(model).args(["-p", "hello"]).args(BRIEF), b"")
}

/// Runs a line of shell in which `$M` is the program.
fn shell(line: &str) -> Outcome {
    run(clean(Command::new("sh")).env("M", env!("CARGO_BIN_EXE_moelten")).args(["-c", line]), b"")
}

#[test]
fn help_and_version_are_cheap_and_fine() {
    for option in ["--help", "--version", "-h", "-V"] {
        assert!(args([option]).fine().text().len() > 5);
    }
    for command in ["chat", "run"] {
        assert!(args([command, "--help"]).fine().text().contains("--ctx"));
    }
}

#[test]
fn wrong_options_are_wrong_use_and_what_they_repeat_is_filtered() {
    for line in [vec!["--nonsense"], vec!["dance"], vec!["run", "a", "b\u{1b}[31m", "-p", "x"]] {
        let outcome = args(line).harmless();
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
    }
}

#[test]
fn b81_paths_that_are_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    ask(path("missing.gguf")).refused(6, "E-IO-01");
    ask(folder.path()).refused(3, "E-FILE-01");
    ask("/dev/zero").refused(3, "E-FILE-01");
    ask("/dev/null").refused(3, "E-FILE-01");
    std::fs::write(path("text"), "not a model ".repeat(100)).unwrap();
    ask(path("text")).refused(3, "E-FILE-01");
    std::fs::write(path("garbage"), [1; 1000]).unwrap();
    ask(path("garbage")).refused(3, "E-FILE-02");
    std::fs::write(path("empty"), "").unwrap();
    let outcome = ask(path("empty")).harmless();
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(Command::new("mkfifo").arg(path("fifo")).status().unwrap().success());
    ask(path("fifo")).refused(3, "E-FILE-01");
}

#[test]
fn b82_a_model_that_may_not_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("secret.gguf");
    std::fs::copy(builtin(), &model).unwrap();
    std::fs::set_permissions(&model, std::fs::Permissions::from_mode(0o000)).unwrap();
    let root = folder.path().metadata().unwrap().uid() == 0;
    let mut command = if root {
        // Without this capability permissions apply to root too.
        let mut command = clean(Command::new("setpriv"));
        command.arg("--bounding-set=-dac_override,-dac_read_search").arg(env!("CARGO_BIN_EXE_moelten"));
        command
    } else {
        moelten()
    };
    run(command.arg("run").arg(&model).args(["-p", "x"]), b"").refused(6, "E-IO-02");
}

#[test]
fn b83_names_that_are_not_utf8() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join(OsStr::from_bytes(b"m\xff\x1b]0;x\x07.gguf"));
    let outcome = ask(&model).refused(6, "E-IO-01");
    assert!(outcome.err.contains('\u{fffd}'), "{outcome:?}");
    std::fs::copy(builtin(), &model).unwrap();
    ask(&model).fine();
    assert!(run(moelten().arg("chat").arg(&model), b"").fine().err.contains('\u{fffd}'));
}

#[test]
fn a_context_beyond_memory_is_refused_before_it_is_taken() {
    let outcome = args(["run", "-p", "x", "--ctx", "1000000k"]).refused(5, "E-MEM-01");
    assert!(outcome.err.contains("would fit"), "{outcome:?}");
}

#[test]
fn f18_a_context_beyond_the_address_space_is_refused() {
    let outcome = shell("exec prlimit --as=400000000 $M run -p hello --ctx 400k");
    outcome.refused(5, "E-MEM-01");
    // Without --ctx a context that fits is chosen.
    shell("exec prlimit --as=160000000 $M run -p hello --max-tokens 4").fine();
}

/// Limits from small to large: with the smallest ones the program does not start.
#[test]
fn f18_little_address_space_is_refused_with_numbers_or_enough() {
    let model = builtin();
    let limited = |limit: u64| {
        shell(&format!(
            "exec prlimit --as={limit} $M run {} -p hello --ctx 64 --max-tokens 4",
            model.display()
        ))
    };
    let tried = (8..40).map(|step| limited(step * 4_000_000)).skip_while(|o| o.code != Some(5));
    let (mut refused, mut used) = (0, 0);
    for outcome in tried {
        match outcome.code {
            Some(0) => used += 1,
            Some(5) => refused += usize::from(outcome.err.contains("needs at least")),
            _ => panic!("{outcome:?}"),
        }
        assert!(!outcome.err.contains("bug"), "{outcome:?}");
    }
    assert!(refused > 0 && used > 0, "{refused} refused, {used} used");
}

/// From the least address space in which the program starts, in small steps: an answer, or the exit code
/// for too little memory. Whatever cannot be allocated, it is never an abort.
#[test]
fn f15_an_allocation_that_fails_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("mini.gguf");
    mini::write(&model, &mini::keys(), &mini::tensors());
    let limited = |limit: u64, line: &str| shell(&format!("exec prlimit --as={limit} $M {line}"));
    let starts = |limit: &u64| limited(*limit, "--version").code == Some(0);
    let least = (10..200).map(|mega| mega * 1_000_000).find(starts).unwrap();
    let (mut refused, mut used) = (0, 0);
    for step in 0..40 {
        let limit = least + step * 1_100_000;
        for line in [
            format!("run {} -p hello --ram min --max-tokens 3 --threads 2", model.display()),
            format!("run {} -p hello --ram min --ctx 64 --max-tokens 3", model.display()),
            "run -p hello --max-tokens 3".to_owned(),
            format!("quantize {} {}/out.gguf --type q8_0 --force", model.display(), folder.path().display()),
            format!("chat {} --max-tokens 3", model.display()),
        ] {
            let outcome = limited(limit, &line);
            match outcome.code {
                Some(0) => used += 1,
                Some(5) if outcome.err.contains("error[E-MEM-") => refused += 1,
                _ => panic!("--as={limit} {line}: {outcome:?}"),
            }
        }
    }
    assert!(refused > 0 && used > 0, "{refused} refused, {used} used from {least}");
}

#[test]
fn f18_tight_limits() {
    for limit in ["--nofile=32", "--as=1073741824", "--core=0 --fsize=0"] {
        let outcome = shell(&format!("exec prlimit {limit} $M run -p hello --max-tokens 4"));
        assert_eq!(outcome.fine().err, "", "{limit}");
    }
}

#[test]
fn f19_closed_streams() {
    for (line, code) in [
        ("$M run -p hello --max-tokens 4 <&-", 0),
        ("$M chat --max-tokens 4 <&-", 0),
        ("$M run --max-tokens 4 <&-", 2),
        ("$M run -p hello --max-tokens 4 2>&-", 0),
        ("echo hello | $M chat --max-tokens 4 2>&-", 0),
        ("$M run missing.gguf -p hello 2>&-", 6),
        ("$M dance 2>/dev/full", 2),
    ] {
        let outcome = shell(line).harmless();
        assert_eq!(outcome.code, Some(code), "{line}: {outcome:?}");
    }
}

#[test]
fn a_file_beyond_the_limit_of_its_size_never_gets_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.gguf");
    let quantize = |limit: &str| {
        let mut command = clean(Command::new("prlimit"));
        command.args([limit, env!("CARGO_BIN_EXE_moelten"), "quantize"]).arg(builtin());
        run(command.arg(&target).args(["--type", "f32"]), b"")
    };
    // Without a complete tensor nothing is kept; with one, the conversion resumes.
    quantize("--fsize=1000000").refused(6, "E-IO-05");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let outcome = quantize("--fsize=9000000").refused(6, "E-IO-05");
    assert!(
        outcome.err.contains("to resume once the problem is solved") && !target.exists(),
        "{}",
        outcome.err
    );
    let outcome = quantize("--fsize=unlimited").fine();
    assert!(outcome.err.contains("resuming at"), "{}", outcome.err);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_full_disk_is_told() {
    for line in ["inspect", "run -p hello --max-tokens 4", "run -p hello --max-tokens 4 --json", "--help"] {
        shell(&format!("$M {line} >/dev/full")).refused(7, "E-DISK-01");
    }
}

#[test]
fn questions_and_options_out_of_place_get_a_tip() {
    for (line, tip) in [
        (&["why is it so"][..], "tip: `moelten run --prompt TEXT` answers"),
        (&["--ctx", "60"], "tip: options follow a command: `moelten chat --ctx ...`"),
        (&["run", "some.gguf", "why", "is", "it"], "tip: put the question in quotes"),
    ] {
        let outcome = args(line).harmless();
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.err.contains(tip), "{outcome:?}");
    }
    let outcome = args(["run", "why"]).refused(2, "E-ARG-01");
    assert!(outcome.err.contains("`why` was taken as the model"), "{outcome:?}");
    assert!(!args(["run", "why is it so", "--max-tokens", "4"]).fine().out.is_empty());
}

#[test]
fn a_model_in_the_place_of_the_command_opens_a_chat() {
    let outcome = args(["some\u{1b}[31m.gguf"]).refused(6, "E-IO-01");
    assert!(outcome.err.contains("cannot open the model"), "{outcome:?}");
    let outcome = args(["dance"]).harmless();
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.err.contains("unrecognized subcommand"), "{outcome:?}");
}

#[test]
fn logits_never_replace_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let (model, link) = (folder.path().join("m.gguf"), folder.path().join("link"));
    std::fs::copy(builtin(), &model).unwrap();
    std::os::unix::fs::symlink(&model, &link).unwrap();
    for out in [&model, &link] {
        let logits = run(moelten().arg("logits").arg(&model).args(["--ids", "5", "--out"]).arg(out), b"");
        logits.refused(6, "E-IO-05");
    }
    assert!(std::fs::read(&model).unwrap() == std::fs::read(builtin()).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn f19_nobody_reads_the_answer() {
    for line in [
        "run -p hello --max-tokens 50 --temp 100",
        "run -p hello --json",
        "chat --max-tokens 50 --temp 100",
        "inspect",
    ] {
        // The reader is gone before the program starts to write.
        let line = format!("{{ {{ sleep 0.2; echo hello | $M {line}; echo $? >&3; }} | true; }} 3>&2");
        let outcome = shell(&line);
        assert_eq!(outcome.err.lines().last(), Some("141"), "{line}: {outcome:?}");
        assert!(!outcome.err.contains("error"), "{line}: {outcome:?}");
    }
}

#[test]
fn f23_odd_homes_and_locales() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o555)).unwrap();
    let read_only = folder.path().to_str().unwrap();
    for (name, value) in
        [("HOME", None), ("HOME", Some(read_only)), ("HOME", Some("/nonexistent")), ("LC_ALL", Some("C"))]
    {
        let mut command = moelten();
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
        command.env_remove("XDG_STATE_HOME").args(["chat", "--max-tokens", "4"]);
        let outcome = run(&mut command, "Grüße\n".as_bytes()).fine();
        assert!(!outcome.out.is_empty(), "{name}={value:?}");
    }
}

/// Every tier from end to end, including a processor without vector instructions.
#[test]
fn f26_every_instruction_set_answers() {
    let folder = tempfile::tempdir().unwrap();
    let isas = moelten_quant::Isa::available();
    assert_eq!(isas[0].name(), "scalar");
    for isa in isas {
        let with = |arguments: &[&str], input: &[u8]| {
            run(moelten().args(arguments).env("MOELTEN_ISA", isa.name()), input).fine()
        };
        let model = folder.path().join(format!("{}.gguf", isa.name()));
        let model = model.to_str().unwrap();
        with(&["quantize", builtin().to_str().unwrap(), model, "--type", "f32"], b"");
        for model in [builtin().to_str().unwrap(), model] {
            assert!(
                !with(&["run", model, "-p", "hello", "--max-tokens", "8", "--temp", "0"], b"").out.is_empty()
            );
            assert!(!with(&["chat", model, "--max-tokens", "8"], b"hello\n").out.is_empty());
        }
    }
}

#[test]
fn f26_an_instruction_set_that_is_not_there_is_wrong_use() {
    for name in ["mmx", "avx2 ", "\u{1b}[31m"] {
        for line in [&["run", "-p", "hello"][..], &["chat"], &["doctor"]] {
            let outcome =
                run(moelten().args(line).env("MOELTEN_ISA", name), b"hello\n").refused(2, "E-ARG-03");
            assert!(outcome.err.contains("scalar"), "{line:?}: {outcome:?}");
        }
    }
    run(moelten().args(["run", "-p", "hello", "--max-tokens", "4"]).env("MOELTEN_ISA", ""), b"").fine();
}

/// A chat or run with an endless answer.
fn endless(arguments: &[&str]) -> Command {
    let mut command = moelten();
    command.env("MOELTEN_ISA", "scalar").args(arguments);
    command.args([
        "--ctx", "200k", "--temp", "100", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "1",
    ]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command
}

#[test]
fn f13_signals_end_an_answer_within_a_second() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut child = endless(&["run", "-p", "hello"]).spawn().unwrap();
        let mut first = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        let asked = Instant::now();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        let outcome = finish(child, asked);
        assert_eq!(outcome.code, Some(code), "{signal}: {outcome:?}");
        // The context of an endless answer is longer than any that the model was trained for.
        let others = outcome.err.lines().find(|line| !line.starts_with("warning: --ctx "));
        assert_eq!(others, None, "{signal}");
        assert!(outcome.took < Duration::from_secs(3), "{signal}: {:?}", outcome.took);
    }
}

#[test]
fn the_oom_killer_prefers_it() {
    if !Path::new("/proc/self/oom_score_adj").exists() {
        skip!("no /proc/self/oom_score_adj");
    }
    let mut child = endless(&["run", "-p", "hello"]).spawn().unwrap();
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let adjusted = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(adjusted.trim(), "500");
}

/// A vocabulary may have fewer tokens than the embedding has rows, since the rest is padding; more are
/// refused.
#[test]
fn b58_a_vocabulary_of_another_size_than_the_embedding() {
    let folder = tempfile::tempdir().unwrap();
    let with_vocabulary = |name: &str, change: fn(&mut Vec<String>, &mut Vec<i32>, &mut Vec<String>)| {
        let path = folder.path().join(name);
        model_with(&path, |metadata| {
            let mut take = |key: &str| {
                let (_, value) = metadata.iter_mut().find(|(found, _)| found == key).unwrap();
                std::mem::replace(value, Value::Bool(false))
            };
            let keys = ["tokens", "token_type", "merges"].map(|name| format!("tokenizer.ggml.{name}"));
            let [
                Value::Array(Array::Str(mut tokens)),
                Value::Array(Array::I32(mut types)),
                Value::Array(Array::Str(mut merges)),
            ] = keys.each_ref().map(|key| take(key))
            else {
                panic!("lists of the usual types")
            };
            change(&mut tokens, &mut types, &mut merges);
            metadata.retain(|(key, _)| !keys.contains(key));
            let lists = [Array::Str(tokens), Array::I32(types), Array::Str(merges)];
            metadata.extend(keys.into_iter().zip(lists.map(Value::Array)));
        });
        path.into_os_string().into_string().unwrap()
    };
    let larger = with_vocabulary("larger.gguf", |tokens, types, _| {
        tokens.push("onemore".to_owned());
        types.push(1);
    });
    let noted = args(["run", &larger, "-p", "hello", "--max-tokens", "8"]).fine();
    assert!(noted.err.contains("1 tokens have no row in the embedding of 4096 rows"), "{noted:?}");
    let smaller = with_vocabulary("smaller.gguf", |tokens, types, merges| {
        // The last merge makes the last token.
        merges.pop();
        tokens.pop();
        types.pop();
    });
    args(["run", &smaller, "-p", "hello", "--max-tokens", "8"]).fine();
}
