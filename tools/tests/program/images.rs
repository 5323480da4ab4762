//! Models of images from end to end: classes of PNG files, and what is refused.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Outcome, moelten, run};

/// The example, and a folder for images.
fn example() -> (tempfile::TempDir, PathBuf) {
    named("vmoe")
}

fn named(name: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    run(moelten().args(["make-example", name]).current_dir(dir.path()), b"").fine();
    let model = dir.path().join(name);
    (dir, model)
}

/// Writes a PNG file of made pixels.
fn image(path: &Path, (width, height): (u32, u32), color: png::ColorType, depth: png::BitDepth) -> PathBuf {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path).unwrap()), width, height);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == png::ColorType::Indexed {
        encoder.set_palette((0..=255).flat_map(|at: u8| [at, 255 - at, at / 2]).collect::<Vec<u8>>());
    }
    let row = (color.samples() * depth as usize * width as usize).div_ceil(8);
    let data: Vec<u8> = (0..row * height as usize).map(|at| (at * at / 7 % 253) as u8).collect();
    encoder.write_header().unwrap().write_image_data(&data).unwrap();
    path.to_owned()
}

fn rgb(path: &Path, size: (u32, u32)) -> PathBuf {
    image(path, size, png::ColorType::Rgb, png::BitDepth::Eight)
}

fn ask(model: &Path, images: &[&Path], options: &[&str]) -> Outcome {
    let mut command = moelten();
    command.arg("run").arg(model).args(options);
    images.iter().for_each(|image| {
        command.arg("--image").arg(image);
    });
    run(&mut command, b"")
}

#[test]
fn classes_are_named_with_their_shares() {
    let (dir, model) = example();
    let (cat, dog) = (rgb(&dir.path().join("cat.png"), (40, 30)), rgb(&dir.path().join("dog.png"), (17, 64)));
    let one = ask(&model, &[&cat], &[]).fine();
    assert_eq!(one.text().lines().count(), 5, "{one:?}");
    let names = ["cat", "dog", "horse", "tree", "house", "ship"];
    let shares = one.text().lines().map(|line| {
        let (share, name) = line.split_once(" %  ").unwrap();
        assert!(names.contains(&name), "{line}");
        share.trim().parse::<f64>().unwrap()
    });
    let shares: Vec<f64> = shares.collect();
    assert!(shares.is_sorted_by(|a, b| a >= b) && shares.iter().sum::<f64>() <= 100.5, "{shares:?}");
    assert!(one.err.contains("capacity: 2 times the tokens over the experts"), "{one:?}");
    assert!(!one.err.contains("unknown"), "{one:?}");
    // Experts that are read from the file give the same, and so does any number of threads.
    assert_eq!(ask(&model, &[&cat], &["--ram", "min"]).fine().text(), one.text());
    assert_eq!(ask(&model, &[&cat], &["--threads", "3"]).fine().text(), one.text());
    let both: Value = serde_json::from_str(ask(&model, &[&cat, &dog], &["--json"]).fine().text()).unwrap();
    let of = |image: usize| both["images"][image]["classes"].as_array().unwrap().clone();
    assert_eq!((of(0).len(), of(1).len()), (5, 5));
    assert!(both["images"][1]["file"].as_str().unwrap().ends_with("dog.png"));
    assert!(of(0)[0]["share"].as_f64() >= of(0)[1]["share"].as_f64());
    // Without a limit on experts no image depends on another.
    let free = |images: &[&Path]| ask(&model, images, &["--capacity", "none"]).fine().text().to_owned();
    let (together, apart) = (free(&[&cat, &dog]), [free(&[&cat]), free(&[&dog])]);
    let [first, second] = [&cat, &dog].map(|path| path.display().to_string());
    assert_eq!(together, format!("{first}\n{}{second}\n{}", apart[0], apart[1]));
}

#[test]
fn a_model_with_tasks_computes_the_one_that_is_asked_for() {
    let (dir, model) = named("adamvmoe");
    let cat = rgb(&dir.path().join("cat.png"), (40, 30));
    let names =
        [("animals", ["cat", "dog", "horse", "bird"].as_slice()), ("places", &["forest", "street", "sea"])];
    for (task, names) in names {
        let told = ask(&model, &[&cat], &["--task", task]).fine();
        let shown: Vec<&str> = told.text().lines().map(|line| line.split_once(" %  ").unwrap().1).collect();
        assert_eq!(shown.len(), names.len(), "{told:?}");
        assert!(names.iter().all(|name| shown.contains(name)), "{told:?}");
        assert!(!told.err.contains("unknown") && !told.err.contains("unused"), "{told:?}");
        assert_eq!(ask(&model, &[&cat], &["--task", task, "--ram", "min"]).fine().text(), told.text());
    }
    let parts = ask(&model, &[&cat], &["--task", "parts", "--json"]).fine();
    let parts: Value = serde_json::from_str(parts.text()).unwrap();
    let rows = parts["images"][0]["patches"].as_array().unwrap();
    assert!(rows.len() == 4 && rows.iter().all(|row| row.as_array().unwrap().len() == 4), "{parts}");
    assert_eq!(parts["task"], "parts");
    let shown = ask(&model, &[&cat], &["--task", "parts"]).fine();
    let grid: Vec<u64> =
        shown.text().lines().take(4).flat_map(str::split_whitespace).map(|n| n.parse().unwrap()).collect();
    let classes =
        rows.iter().flat_map(|row| row.as_array().unwrap()).map(|patch| patch["class"].as_u64().unwrap());
    assert_eq!(grid, classes.collect::<Vec<_>>(), "{shown:?}");
    let inspected = run(moelten().arg("inspect").arg(&model), b"").fine();
    assert!(inspected.text().contains("task animals: 3 experts for a token"), "{inspected:?}");
    // A missing or unknown task is named with those that there are; other models have none.
    let missing = ask(&model, &[&cat], &[]).refused(2, "E-ARG-01");
    assert!(missing.err.contains("--task: animals, places, parts"), "{missing:?}");
    let unknown = ask(&model, &[&cat], &["--task", "plants"]).refused(2, "E-ARG-01");
    assert!(
        unknown.err.contains("\"plants\"") && unknown.err.contains("animals, places, parts"),
        "{unknown:?}"
    );
    let (other, vmoe) = example();
    let cat = rgb(&other.path().join("cat.png"), (40, 30));
    let none = ask(&vmoe, &[&cat], &["--task", "animals"]).refused(2, "E-ARG-01");
    assert!(none.err.contains("no tasks to choose from"), "{none:?}");
}

/// The file that a folder becomes tells the same as the folder; one of rounded weights nearly the same.
#[test]
fn gguf_files_of_models_of_images_tell_the_same() {
    for (name, task) in [("vmoe", None), ("adamvmoe", Some("animals")), ("adamvmoe", Some("parts"))] {
        let (dir, model) = named(name);
        let cat = rgb(&dir.path().join("cat.png"), (40, 30));
        let options: Vec<&str> = task.iter().flat_map(|task| ["--task", task]).collect();
        let told = ask(&model, &[&cat], &options).fine();
        for (kind, layout) in [("bf16", "standard"), ("bf16", "packed"), ("q8_0", "standard")] {
            let file = dir.path().join("model.gguf");
            let mut quantize = moelten();
            quantize
                .arg("quantize")
                .arg(&model)
                .arg(&file)
                .args(["--type", kind, "--layout", layout, "--force"]);
            let written = run(&mut quantize, b"").fine();
            assert!(!written.err.contains("refuses") && !written.err.contains("tokenizer"), "{written:?}");
            let of_file = ask(&file, &[&cat], &options).fine();
            assert!(!of_file.err.contains("unknown") && !of_file.err.contains("unused"), "{of_file:?}");
            if kind == "bf16" {
                assert_eq!(of_file.text(), told.text(), "{name} {layout}");
                assert_eq!(
                    ask(&file, &[&cat], &[&options[..], &["--ram", "min"]].concat()).fine().text(),
                    told.text()
                );
            } else if task != Some("parts") {
                let shares = |told: &Outcome| {
                    let share = |line: &str| {
                        line.split_once(" %  ")
                            .map(|(share, name)| (name.to_owned(), share.trim().parse::<f64>().unwrap()))
                    };
                    told.text()
                        .lines()
                        .map(|line| share(line).unwrap())
                        .collect::<std::collections::BTreeMap<_, _>>()
                };
                let (exact, rounded) = (shares(&told), shares(&of_file));
                let worst = exact
                    .iter()
                    .filter_map(|(name, share)| Some((share - rounded.get(name)?).abs()))
                    .fold(0.0, f64::max);
                println!("{name}: {worst} percentage points");
                assert!(worst < 5.0, "{exact:?} {rounded:?}");
            }
        }
    }
}

#[test]
fn every_kind_of_png_is_read() {
    use png::BitDepth::{Eight, Four, One, Sixteen};
    use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
    let (dir, model) = example();
    let kinds =
        [(Grayscale, One), (Grayscale, Sixteen), (GrayscaleAlpha, Eight), (Indexed, Four), (Indexed, Eight)];
    for (color, depth) in kinds.into_iter().chain([(Rgb, Sixteen), (Rgba, Eight), (Rgba, Sixteen)]) {
        let path = image(&dir.path().join("a.png"), (33, 65), color, depth);
        ask(&model, &[&path], &[]).fine();
    }
}

#[test]
fn what_has_no_text_or_no_image_is_said() {
    let (dir, model) = example();
    let cat = rgb(&dir.path().join("cat.png"), (8, 8));
    for options in [&[][..], &["-p", "What is it?"], &["--no-template", "-p", "What?"]] {
        let refused = ask(&model, &[], options).refused(4, "E-SUP-02");
        assert!(refused.err.contains("--image cat.png"), "{refused:?}");
    }
    for command in ["chat", "fit", "bench", "ppl", "imatrix"] {
        let mut words = moelten();
        words.arg(command).arg(&model);
        match command {
            "ppl" => words.arg("--text").arg(&cat),
            "imatrix" => words.arg("--text").arg(&cat).arg("--out").arg(dir.path().join("sums")),
            _ => &mut words,
        };
        let refused = run(&mut words, b"").refused(4, "E-SUP-02");
        assert!(refused.err.contains("--image cat.png"), "{command}: {refused:?}");
    }
    let inspected = run(moelten().arg("inspect").arg(&model), b"").fine();
    assert!(inspected.text().contains("images of 32 x 32 pixels in patches of 8 x 8"), "{inspected:?}");
    assert!(inspected.text().contains("those with the highest weights first"), "{inspected:?}");
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/mixtral");
    assert!(ask(&text, &[&cat], &[]).refused(2, "E-ARG-01").err.contains("reads text"));
    assert!(ask(&model, &[&cat], &["-p", "What?"]).refused(2, "E-ARG-01").err.contains("a prompt"));
}

#[test]
fn damaged_and_other_files_are_named() {
    let (dir, model) = example();
    let at = |name: &str| dir.path().join(name);
    let whole = fs::read(rgb(&at("whole.png"), (40, 30))).unwrap();
    let with = |name: &str, bytes: &[u8]| {
        fs::write(at(name), bytes).unwrap();
        at(name)
    };
    let refused = |path: PathBuf, exit: i32, code: &str, words: &str| {
        let refused = ask(&model, &[&path], &[]).refused(exit, code);
        assert!(refused.err.contains(words), "{path:?}: {refused:?}");
    };
    refused(at("absent.png"), 6, "E-IO-01", "absent.png");
    refused(with("text.png", b"a cat"), 3, "E-FILE-02", "cannot be decoded");
    refused(with("empty.png", b""), 3, "E-FILE-02", "ends early");
    refused(with("cut.png", &whole[..whole.len() / 2]), 3, "E-FILE-02", "ends early");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    refused(with("flipped.png", &flipped), 3, "E-FILE-02", "cannot be decoded");
    refused(with("a.jpg", b"\xFF\xD8\xFF\xE0 a picture"), 4, "E-SUP-01", "JPEG images is not supported");
    refused(at("a.jpg"), 4, "E-SUP-01", "`magick FILE FILE.png`");
    // The header with other numbers, and the checksum that fits them.
    let header = |width: u32, height: u32, interlaced: u8| {
        let mut bytes = whole.clone();
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        bytes[28] = interlaced;
        let sum = crc(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&sum.to_be_bytes());
        bytes
    };
    refused(with("wide.png", &header(100_000, 10, 0)), 3, "E-FILE-02", "width: is 100000");
    refused(with("huge.png", &header(60_000, 60_000, 0)), 3, "E-FILE-02", "number of pixels");
    refused(with("woven.png", &header(40, 30, 1)), 3, "E-FILE-02", "woven.png");
    refused(with("huge.png", &header(10_000, 10_000, 1)), 3, "E-FILE-02", "number of pixels (interlaced)");
    refused(with("none.png", &header(0, 30, 0)), 3, "E-FILE-02", "");
    // A palette that ends within a colour, which the decoder does not expect: a find of the fuzz target.
    let palette = image(&at("palette.png"), (6, 6), png::ColorType::Indexed, png::BitDepth::Four);
    let whole_colours = fs::read(&palette).unwrap();
    let place = whole_colours.windows(4).position(|part| part == b"PLTE").unwrap();
    let part = &whole_colours[place..place + 4 + 53];
    let cut = [&whole_colours[..place - 4], &53_u32.to_be_bytes(), part, &crc(part).to_be_bytes()].concat();
    let cut = [&cut, &whole_colours[place + 4 + 768 + 4..]].concat();
    refused(with("palette.png", &cut), 3, "E-FILE-02", "a palette of 53 bytes");
    let settings = model.join("preprocessor_config.json");
    for (text, exit, code, words) in [
        (r#"{"size": 64}"#, 3, "E-FILE-02", "64 x 64"),
        (r#"{"resample": 3}"#, 4, "E-SUP-01", "bilinear"),
        (r#"{"image_std": [0.5, 0.0, 0.5]}"#, 3, "E-FILE-02", "image_std"),
        (r#"{"do_resize": false}"#, 3, "E-FILE-02", "40 x 30"),
    ] {
        fs::write(&settings, text).unwrap();
        refused(at("whole.png"), exit, code, words);
    }
    fs::remove_file(&settings).unwrap();
    refused(at("whole.png"), 3, "E-FILE-02", "preprocessor_config.json");
}

/// Writes made pixels as an interlaced PNG file, whose data are stored as they are.
fn interlaced(path: &Path, (width, height): (usize, usize), color: png::ColorType, depth: usize) -> PathBuf {
    let samples = color.samples();
    // The numbers of a row as they lie in the file of `image`.
    let row = (samples * depth * width).div_ceil(8);
    let made = |at: usize| (at * at / 7 % 253) as u8;
    let number = |y: usize, x: usize, sample: usize| {
        let bit = (x * samples + sample) * depth;
        let byte = made(y * row + bit / 8);
        if depth == 8 { byte } else { byte >> (8 - depth - bit % 8) & ((1 << depth) - 1) }
    };
    let mut data = Vec::new();
    for (left, top, right, down) in
        [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    {
        for y in (top..height).step_by(down).filter(|_| left < width) {
            data.push(0);
            let numbers =
                (left..width).step_by(right).flat_map(|x| (0..samples).map(move |sample| (x, sample)));
            let numbers: Vec<u8> = numbers.map(|(x, sample)| number(y, x, sample)).collect();
            let byte = |part: &[u8]| {
                let bits = part.iter().enumerate();
                bits.fold(0, |byte, (at, &number)| byte | number << (8 - depth * (at + 1)))
            };
            data.extend(numbers.chunks(8 / depth).map(byte));
        }
    }
    // A zlib stream of stored blocks.
    let mut packed = vec![0x78, 1];
    let blocks = data.chunks(65_535);
    let last = blocks.len() - 1;
    for (at, block) in blocks.enumerate() {
        let length = block.len() as u16;
        packed.push(u8::from(at == last));
        packed.extend([length.to_le_bytes(), (!length).to_le_bytes()].concat());
        packed.extend(block);
    }
    let (a, b) = data.iter().fold((1, 0), |(a, b), &byte| {
        let a = (a + u32::from(byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    packed.extend((b << 16 | a).to_be_bytes());
    let mut header = Vec::new();
    header.extend((width as u32).to_be_bytes());
    header.extend((height as u32).to_be_bytes());
    header.extend([depth as u8, color as u8, 0, 0, 1]);
    let mut file = b"\x89PNG\r\n\x1A\n".to_vec();
    for (kind, body) in [(b"IHDR", &header), (b"IDAT", &packed), (b"IEND", &Vec::new())] {
        file.extend((body.len() as u32).to_be_bytes());
        let part = [&kind[..], body].concat();
        file.extend(&part);
        file.extend(crc(&part).to_be_bytes());
    }
    fs::write(path, file).unwrap();
    path.to_owned()
}

/// An interlaced image tells the same as the other one, to the last digit, also one of several bands of rows.
#[test]
fn interlaced_images_are_those_without() {
    use png::BitDepth::{Eight, One, Two};
    use png::ColorType::{Grayscale, Rgb, Rgba};
    let (dir, model) = example();
    let [plain, woven] = ["plain.png", "woven.png"].map(|name| dir.path().join(name));
    let sizes = [(1, 1), (1, 9), (3, 2), (5, 5), (33, 65)];
    let kinds = [(Rgb, Eight), (Rgba, Eight), (Grayscale, One), (Grayscale, Two)];
    let small = kinds.into_iter().flat_map(|kind| sizes.map(|size| (kind, size)));
    for ((color, depth), (width, height)) in small.chain([((Rgb, Eight), (2_100, 1_900))]) {
        image(&plain, (width, height), color, depth);
        interlaced(&woven, (width as usize, height as usize), color, depth as usize);
        let told = |path: &Path| {
            let told = ask(&model, &[path], &["--json"]).fine();
            let told: Value = serde_json::from_str(told.text()).unwrap();
            told["images"][0]["classes"].clone()
        };
        assert_eq!(told(&plain), told(&woven), "{width} x {height}, {color:?}, {depth:?}");
    }
    // Each pass has its last row: what is cut is missed.
    let whole = fs::read(&woven).unwrap();
    fs::write(&woven, &whole[..whole.len() - 1000]).unwrap();
    assert!(ask(&model, &[&woven], &[]).refused(3, "E-FILE-02").err.contains("ends early"));
}

/// The checksum of PNG chunks.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// An image of very many pixels in a small file takes no more memory than a small one.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_follow_from_the_file() {
    use std::process::Stdio;
    use std::time::{Duration, Instant};

    use crate::common::finish;
    use crate::common::peak::Peak;

    let (dir, model) = example();
    let path =
        image(&dir.path().join("large.png"), (65_000, 2_000), png::ColorType::Rgb, png::BitDepth::Eight);
    let mut command = moelten();
    command.arg("run").arg(&model).arg("--image").arg(&path).args(["--ram", "80M"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let peak = Peak::of(&child, Duration::from_millis(5));
    finish(child, Instant::now()).fine();
    let bytes = peak.bytes();
    println!("{} MB at most, for 130 million pixels", bytes / 1_000_000);
    assert!(bytes <= (80 << 20) + (64 << 20), "{bytes} bytes");
}
