//! What the program is made of: licences, checksums and known faults of its dependencies, and that it opens
//! no connection. Nothing here needs the network: advisories are those of a snapshot in `tests/data`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use semver::{Version, VersionReq};
use serde_json::Value;

use crate::common::moelten;

/// Licences of which one is enough: all of them let this program be passed on under its own.
const ALLOWED: [&str; 11] = [
    "MIT",
    "0BSD",
    "ISC",
    "CDLA-Permissive-2.0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "Zlib",
    "Unlicense",
];
/// Licences that are asked for besides another one.
const ALLOWED_BESIDES: [&str; 1] = ["Unicode-3.0"];

/// Advisories that are known and accepted, with the reason.
const ACCEPTED: [(&str, &str); 1] = [(
    "RUSTSEC-2024-0436",
    "paste is no longer developed; it writes names at compile time for `tokenizers` and `gemm`",
)];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What Cargo knows about all packages that are built for this platform, and how they depend on each other.
fn metadata() -> Value {
    let host = Command::new("rustc").arg("-vV").output().expect("rustc is there, as the tests were built");
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc says its host");
    let cargo = |args: &[&str]| {
        let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output();
        output.expect("cargo is there, as the tests were built")
    };
    let args = ["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", host];
    let mut output = cargo(&args);
    if !output.status.success() {
        // What only builds with a GPU need is not downloaded for these tests.
        cargo(&["fetch", "--locked", "--target", host]);
        output = cargo(&args);
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether an SPDX expression can be met: every part joined by AND has an allowed alternative.
fn is_allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" AND ").all(|part| {
        part.split(" OR ").map(str::trim).any(|one| ALLOWED.contains(&one) || ALLOWED_BESIDES.contains(&one))
    })
}

#[test]
fn licences_are_allowed() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() > 100, "{}", packages.len());
    let bad: Vec<String> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(is_allowed))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(bad.is_empty(), "licences that are not on the list:\n{}", bad.join("\n"));
    for (expression, allowed) in [
        ("MIT OR Apache-2.0", true),
        ("Apache-2.0 / MIT", true),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("GPL-3.0-only", false),
        ("MIT AND GPL-3.0-only", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression:?}");
    }
}

/// The packages of a lock file: name, version, source, checksum.
fn locked(path: &str) -> Vec<toml::Table> {
    let text = std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let file: toml::Table = toml::from_str(&text).unwrap();
    let packages = file["package"].as_array().unwrap();
    packages.iter().map(|package| package.as_table().unwrap().clone()).collect()
}

#[test]
fn every_dependency_is_locked() {
    for path in ["Cargo.lock", "fuzz/Cargo.lock"] {
        for package in locked(path) {
            let name = package["name"].as_str().unwrap_or_default();
            let source = package.get("source").and_then(toml::Value::as_str);
            match source {
                // From this repository.
                None => {
                    assert!(name.starts_with("moelten-"), "{path}: {name}")
                }
                Some(source) => {
                    assert_eq!(source, CRATES_IO, "{path}: {name}");
                    let checksum = package.get("checksum").and_then(toml::Value::as_str).unwrap_or_default();
                    assert_eq!(checksum.len(), 64, "{path}: {name}");
                }
            }
        }
    }
}

/// The bill of materials of a release: each crate in the program, with what the lock file says of it.
#[cfg(unix)]
#[test]
fn the_bill_of_materials_lists_what_is_in_the_program() {
    let output = Command::new(root().join("tools/bill")).env("CARGO_NET_OFFLINE", "true").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let here = root().canonicalize().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains(here.to_str().unwrap()), "a path of this machine");
    let bill: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(bill["bomFormat"], "CycloneDX");
    let locked = locked("Cargo.lock");
    let of_lock = |component: &Value, key: &str| {
        let mut same = locked.iter().filter(|package| {
            ["name", "version"].iter().all(|key| package[*key].as_str() == component[key].as_str())
        });
        same.next().and_then(|package| package.get(key)?.as_str()).unwrap_or_default().to_owned()
    };
    let mut names = Vec::new();
    for component in bill["components"].as_array().unwrap() {
        let name = component["name"].as_str().unwrap();
        if component["type"] != "library" {
            let model = std::fs::metadata(root().join(format!("models/{name}.gguf"))).unwrap();
            assert!(model.is_file() && component["hashes"][0]["content"].as_str().unwrap().len() == 64);
            continue;
        }
        assert!(is_allowed(component["licenses"][0]["expression"].as_str().unwrap()), "{component}");
        if !name.starts_with("moelten-") {
            assert_eq!(component["hashes"][0]["content"], of_lock(component, "checksum"), "{component}");
            assert!(component["purl"].as_str().unwrap().starts_with("pkg:cargo/"), "{component}");
        }
        names.push(name);
    }
    for name in ["moelten-quant", "moelten-tui", "serde_json", "ureq", "ratatui", "clap"] {
        assert!(names.contains(&name), "{name} is missing: {names:?}");
    }
    // Those of tests and of the GPU are not in the program.
    for name in ["proptest", "shuttle", "moelten-testing", "wgpu"] {
        assert!(!names.contains(&name), "{name} is not in the program");
    }
}

/// Sums are signed only if they are true, and the public key is enough to find every change.
#[cfg(unix)]
#[test]
fn the_sums_of_a_release_are_signed() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let key = file("key");
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).output();
    if !made.is_ok_and(|made| made.status.success()) {
        moelten_testing::skip!("ssh-keygen is not installed");
    }
    std::fs::write(file("moelten-1.tar.gz"), "an archive").unwrap();
    let sums = "31b0d3a6a1ac6ffa9fd1ebb6ad42bd1de2bd12bbf5a5d0e50ccf4ee2b6ed8b1e  moelten-1.tar.gz\n";
    let sign = || {
        let mut command = Command::new(root().join("tools/sign"));
        command.arg(&key).arg(folder.path()).output().unwrap()
    };
    std::fs::write(file("SHA256SUMS"), sums).unwrap();
    let refused = sign();
    assert!(!refused.status.success() && !file("SHA256SUMS.sig").exists(), "{refused:?}");
    let summed = Command::new("sha256sum").arg("moelten-1.tar.gz").current_dir(folder.path()).output();
    let Ok(summed) = summed else { moelten_testing::skip!("sha256sum is not installed") };
    std::fs::write(file("SHA256SUMS"), &summed.stdout).unwrap();
    let signed = sign();
    assert!(signed.status.success(), "{signed:?}");
    let public = std::fs::read_to_string(file("key.pub")).unwrap();
    std::fs::write(file("signers"), format!("moelten {public}")).unwrap();
    let verified = |sums: &[u8]| {
        std::fs::write(file("SHA256SUMS"), sums).unwrap();
        let mut command = Command::new("ssh-keygen");
        command.args(["-Y", "verify", "-I", "moelten", "-n", "moelten-release", "-f"]).arg(file("signers"));
        command.arg("-s").arg(file("SHA256SUMS.sig"));
        let sums = std::fs::File::open(file("SHA256SUMS")).unwrap();
        command.stdin(sums).output().unwrap().status.success()
    };
    assert!(verified(&summed.stdout));
    let mut changed = summed.stdout.clone();
    changed[0] ^= 1;
    assert!(!verified(&changed), "a changed sum");
}

/// Whether a version is among alternatives like `>= 1.2, < 2 | >= 2.1`.
fn is_among(version: &Version, alternatives: &str) -> bool {
    let mut requirements = alternatives.split('|').map(str::trim).filter(|text| !text.is_empty());
    requirements.any(|text| {
        let requirement = VersionReq::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        requirement.matches(version)
    })
}

/// The advisories for each crate: name, kind, mended versions, versions that never had the fault.
fn advisories() -> BTreeMap<String, Vec<[String; 4]>> {
    let mut all: BTreeMap<String, Vec<[String; 4]>> = BTreeMap::new();
    let text = include_str!("../data/advisories.tsv");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        all.entry(next()).or_default().push([next(), next(), next(), next()]);
    }
    assert!(all.len() > 500, "the snapshot is whole");
    all
}

/// The advisories that a version of a crate is subject to.
fn open(name: &str, version: &Version) -> Vec<String> {
    let all = advisories();
    let of = all.get(name).into_iter().flatten();
    of.filter(|[_, _, mended, unaffected]| !is_among(version, mended) && !is_among(version, unaffected))
        .map(|[id, kind, ..]| format!("{name} {version}: {id} ({kind})"))
        .collect()
}

#[test]
fn no_dependency_has_an_open_advisory() {
    let mut found = Vec::new();
    for package in ["Cargo.lock", "fuzz/Cargo.lock"].into_iter().flat_map(locked) {
        let text = |key: &str| package[key].as_str().unwrap().to_owned();
        found.extend(open(&text("name"), &Version::parse(&text("version")).unwrap()));
    }
    let (accepted, bad): (Vec<_>, Vec<_>) =
        found.iter().partition(|line| ACCEPTED.iter().any(|(id, _)| line.contains(id)));
    assert!(bad.is_empty(), "known faults of dependencies:\n{bad:#?}");
    for (id, reason) in ACCEPTED {
        assert!(accepted.iter().any(|line| line.contains(id)), "{id} is no longer needed: {reason}");
    }
    // An old version is found.
    for (name, old) in [("memmap2", "0.9.10"), ("smallvec", "1.6.0"), ("time", "0.3.40")] {
        assert!(!open(name, &Version::parse(old).unwrap()).is_empty(), "{name} {old}");
    }
}

/// Crates that open connections.
const NETWORK: [&str; 14] = [
    "async-std",
    "curl",
    "h2",
    "hyper",
    "isahc",
    "native-tls",
    "openssl",
    "quinn",
    "reqwest",
    "rustls",
    "socket2",
    "tokio",
    "tungstenite",
    "ureq",
];

/// All that answers questions and converts models is below the chat, and nothing of it can open a connection.
#[test]
fn i14_nothing_below_the_program_opens_connections() {
    let metadata = metadata();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names: BTreeMap<String, String> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let needs: BTreeMap<String, Vec<String>> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (text(&node["id"]), normal_dependencies(node)))
        .collect();
    let mut open: Vec<&String> =
        names.iter().filter(|(_, name)| *name == "moelten-tui").map(|(id, _)| id).collect();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(id) = open.pop() {
        if seen.insert(id) {
            open.extend(&needs[id]);
        }
    }
    let below: Vec<&str> = seen.iter().map(|id| names[*id].as_str()).collect();
    for name in ["moelten-quant", "moelten-loader", "moelten-engine", "serde_json"] {
        assert!(below.contains(&name), "{below:?}");
    }
    let found: Vec<_> = below.iter().filter(|name| NETWORK.contains(name)).collect();
    assert!(found.is_empty(), "{found:?}");
}

/// The packages that a package is built with, without those of its tests.
fn normal_dependencies(node: &Value) -> Vec<String> {
    let all = node["deps"].as_array().unwrap().iter();
    let normal = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array().unwrap();
        kinds.iter().any(|kind| kind["kind"].is_null())
    };
    all.filter(normal).map(|dependency| dependency["pkg"].as_str().unwrap().to_owned()).collect()
}

/// A chat that has answered and waits has no socket of the network, only the pair that its signals come
/// through.
#[cfg(target_os = "linux")]
#[test]
fn i14_a_chat_opens_no_connection() {
    use std::io::{BufRead, BufReader, Write};
    let mut command = moelten();
    command.args(["chat", "--max-tokens", "4", "--seed", "1", "--no-history"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    input.write_all(b"hello\n").unwrap();
    let mut answer = String::new();
    while answer.trim().is_empty() {
        assert!(answers.read_line(&mut answer).unwrap() > 0, "the chat ended before its answer");
    }
    let of_network = network_sockets(child.id());
    let files = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
    let open: Vec<PathBuf> = files.filter_map(|file| std::fs::read_link(file.unwrap().path()).ok()).collect();
    drop(input);
    assert!(child.wait().unwrap().success());
    let open: Vec<String> = open.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    assert!(open.iter().any(|path| path.starts_with("pipe:")), "{open:?}");
    let connections: Vec<_> = open.iter().filter(|path| of_network.contains(path)).collect();
    assert!(connections.is_empty(), "{connections:?} of {open:?}");
    // A socket of the network is seen as one.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(!network_sockets(std::process::id()).is_empty(), "{listener:?}");
}

/// The sockets of all kinds of network that the system of a process has, as links of open files.
#[cfg(target_os = "linux")]
fn network_sockets(process: u32) -> Vec<String> {
    let mut all = Vec::new();
    // The column that has the number of the file.
    for (table, column) in
        [("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("raw", 9), ("raw6", 9), ("packet", 8)]
    {
        let text = std::fs::read_to_string(format!("/proc/{process}/net/{table}")).unwrap_or_default();
        let numbers = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(column));
        all.extend(numbers.map(|number| format!("socket:[{number}]")));
    }
    all
}
