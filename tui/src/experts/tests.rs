//! The view at several sizes, and the rates that it computes.

use std::time::Duration;

use moelten_engine::api::{
    ExpertCell, ExpertMap, ExpertPlace, ExpertPrediction, ExpertRow, ExpertUse, MemoryUse,
};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::grid::Grid;
use super::*;
use crate::chat::Limits;
use crate::markdown::theme::{ColourDepth, ColourScheme, Role, Theme};

const DARK: Theme = Theme { scheme: ColourScheme::Dark, depth: ColourDepth::True };

/// A map with every state: the first experts are resident, some are in use.
fn map(layers: usize, experts: usize) -> ExpertMap {
    let cell = |layer: usize, expert: usize| {
        let used = (expert % 16 == layer % 16).then_some((expert / 16) as u64 * 4);
        ExpertCell {
            place: match expert {
                _ if expert * 5 < experts * 2 => ExpertPlace::Resident,
                _ if expert == layer + experts / 2 => ExpertPlace::Loading,
                _ => ExpertPlace::Absent,
            },
            used,
            prediction: (expert % 11 == layer % 11)
                .then(|| ExpertPrediction { correct: used == Some(0), age: used.unwrap_or(0) }),
        }
    };
    let row = |layer: usize| ExpertRow {
        layer,
        slots: experts * 2 / 5,
        cells: (0..experts).map(|expert| cell(layer, expert)).collect(),
        ..ExpertRow::default()
    };
    let memory = MemoryUse {
        owned_bytes: Some((39 << 30) / 10),
        mapped_bytes: Some(40 << 20),
        budget_bytes: 4 << 30,
        slot_bytes: 1 << 31,
        released_bytes: 0,
    };
    ExpertMap { rows: (0..layers).map(row).collect(), memory, ..ExpertMap::default() }
}

/// The counters one second later: ten tokens of 0.1 GB each, of which a fifth was missing.
fn later(mut map: ExpertMap) -> ExpertMap {
    let experts = map.rows.len() as u64 * 80;
    map.decode = ExpertUse {
        tokens: map.decode.tokens + 10,
        used: map.decode.used + experts,
        used_bytes: map.decode.used_bytes + 1_000_000_000,
        missed_bytes: map.decode.missed_bytes + 200_000_000,
        stall: map.decode.stall + Duration::from_millis(250),
    };
    map.read_bytes += 240_000_000;
    for (layer, row) in map.rows.iter_mut().enumerate() {
        row.requested += 80;
        row.missed += 8 + layer as u64 % 16;
        row.chosen += 80;
        row.predicted += 60;
    }
    map
}

fn view(layers: usize, experts: usize, limits: Limits) -> ExpertView {
    let mut view = ExpertView::new(limits);
    let first = map(layers, experts);
    view.update(first.clone(), Duration::from_secs(1));
    view.update(later(first), Duration::from_secs(2));
    view
}

const LIMITS: Limits =
    Limits { ram_gb_per_s: Some(20.0), disk_gb_per_s: Some(1.0), dense_bytes: Some(300_000_000.0) };

fn screen(view: &ExpertView, width: u16, height: u16, theme: Theme) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view.draw(frame.area(), frame.buffer_mut(), theme)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(row).collect()
}

/// The same without predictions.
fn view_without_prefetch(layers: usize, experts: usize) -> ExpertView {
    let plain = |mut map: ExpertMap| {
        for row in &mut map.rows {
            (row.chosen, row.predicted) = (0, 0);
            row.cells.iter_mut().for_each(|cell| cell.prediction = None);
        }
        map
    };
    let mut view = ExpertView::new(LIMITS);
    let first = map(layers, experts);
    view.update(plain(first.clone()), Duration::from_secs(1));
    view.update(plain(later(first.clone())), Duration::from_secs(2));
    view.update(plain(later(later(first))), Duration::from_secs(3));
    view
}

/// The blocks of the manual that show the view, without colours.
fn manual() -> Vec<Vec<String>> {
    let manual = include_str!("../../../docs/expert-view.md");
    let blocks = manual.split("```text\n").skip(1).map(|rest| rest.split("\n```").next().unwrap());
    blocks.map(|block| block.lines().map(str::to_owned).collect()).collect()
}

/// What the manual shows is what is drawn.
#[test]
fn the_manual_shows_the_view() {
    let drawn = [
        screen(&view_without_prefetch(24, 64), 80, 10, Theme::PLAIN),
        screen(&view(6, 64, LIMITS), 118, 14, Theme::PLAIN),
        screen(&view_without_prefetch(16, 64), 98, 30, Theme::PLAIN),
    ];
    let drawn = drawn.map(|lines| {
        let end = lines.iter().rposition(|line| !line.is_empty()).map_or(0, |last| last + 1);
        lines[..end].to_vec()
    });
    let all = drawn.each_ref().map(|lines| lines.join("\n")).join("\n---\n");
    assert!(manual() == drawn, "the manual should show\n{all}\n--- end");
}

const ALL_THEMES: [Theme; 6] = {
    use ColourDepth::{Indexed, Sixteen, True};
    use ColourScheme::{Dark, Light};
    [
        Theme { scheme: Dark, depth: True },
        Theme { scheme: Dark, depth: Indexed },
        Theme { scheme: Dark, depth: Sixteen },
        Theme { scheme: Light, depth: True },
        Theme { scheme: Light, depth: Indexed },
        Theme { scheme: Light, depth: Sixteen },
    ]
};

/// With a GPU there is a third place: in the map, the legend, the gauges and the sentence.
#[test]
fn experts_of_a_gpu_are_a_third_place() {
    use look::{Fill, Recency};
    use moelten_engine::api::GpuUse;
    let mut map = map(8, 64);
    let cell = ExpertCell { place: ExpertPlace::Device, ..ExpertCell::default() };
    map.rows.iter_mut().for_each(|row| row.cells[..16].fill(cell));
    let (bytes, slots) = (1 << 30, 128);
    let gpu = GpuUse { computed: 30, visited: 40, held: slots, slots, bytes, exact: true, lost: false };
    map.gpu = Some(gpu);
    let text = |map: &ExpertMap| {
        let mut view = ExpertView::new(LIMITS);
        view.update(map.clone(), Duration::from_secs(1));
        view.update(later(map.clone()), Duration::from_secs(2));
        screen(&view, 140, 24, Theme::PLAIN).join("\n")
    };
    let shown = text(&map);
    for words in
        ["v VRAM", "GPU: 75 %, exact.", "were in RAM or VRAM", "in RAM, VRAM", "GPU, exact", "75.0 %"]
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(shown.contains("vvvv"), "{shown}");
    map.gpu = Some(GpuUse { lost: true, ..gpu });
    assert!(text(&map).contains("not used any more"), "{}", text(&map));
    // Its colours are those of no other place, but for what is used now with 16 colours.
    let recencies = [Recency::Idle, Recency::Lately, Recency::Now];
    for theme in ALL_THEMES {
        let other = [Fill::Disk, Fill::Arriving, Fill::Ram];
        let other: Vec<_> =
            other.into_iter().flat_map(|fill| recencies.map(|recency| fill.colour(recency, theme))).collect();
        let own = recencies.map(|recency| Fill::Vram.colour(recency, theme));
        let differ = if theme.depth == ColourDepth::Sixteen { &own[..2] } else { &own[..] };
        assert!(differ.iter().all(|colour| !other.contains(colour)), "{theme:?}");
        assert!(own[0] != own[1] && own[1] != own[2], "{theme:?}");
    }
}

/// Every colour of the map is one that the legend explains, and they differ at every depth.
#[test]
fn the_legend_matches_the_picture() {
    use look::{Fill, Recency};
    let recencies = [Recency::Idle, Recency::Lately, Recency::Now];
    for theme in ALL_THEMES {
        let ram = recencies.map(|recency| Fill::Ram.colour(recency, theme));
        let disk = [Recency::Idle, Recency::Lately].map(|recency| Fill::Disk.colour(recency, theme));
        let known: Vec<_> =
            ram.into_iter().chain(disk).chain([Fill::Arriving.colour(Recency::Now, theme)]).collect();
        for (index, colour) in known.iter().enumerate() {
            assert!(!known[..index].contains(colour), "{theme:?}: {colour:?} has two meanings");
        }
        for view in [view(24, 64, LIMITS), view_without_prefetch(24, 64)] {
            for (width, height) in [(80, 24), (120, 40), (200, 50)] {
                let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
                terminal.draw(|frame| view.draw(frame.area(), frame.buffer_mut(), theme)).unwrap();
                let buffer = terminal.backend().buffer();
                let squares = buffer.content().iter().filter(|cell| ["▀", "█"].contains(&cell.symbol()));
                let bars = [theme.colour(Role::Good)];
                let others: Vec<_> = [Role::Accent, Role::Bar, Role::Warning, Role::BarRest]
                    .map(|role| theme.colour(role))
                    .into_iter()
                    .chain(bars)
                    .collect();
                let unknown =
                    squares.filter(|cell| !known.contains(&cell.fg) && !others.contains(&cell.fg)).count();
                assert_eq!(unknown, 0, "{theme:?} at {width} x {height}");
            }
        }
    }
}

/// The rows of the map are where they were when the first rates arrive.
#[test]
fn nothing_moves_when_rates_arrive() {
    for (width, height) in [(80, 10), (80, 24), (118, 40), (98, 46)] {
        let mut view = ExpertView::new(LIMITS);
        let first = map(24, 64);
        view.update(first.clone(), Duration::from_secs(1));
        let layers = |view: &ExpertView| {
            let shown = screen(view, width, height, Theme::PLAIN);
            shown.iter().position(|line| line.starts_with("    0 ")).unwrap()
        };
        let before = (layers(&view), view.height(width, Theme::PLAIN));
        let mut now = later(first);
        now.rows.iter_mut().for_each(|row| row.chosen = 0);
        view.update(now, Duration::from_secs(2));
        assert!(view.rates().tokens_per_s.is_some());
        assert_eq!((layers(&view), view.height(width, Theme::PLAIN)), before, "{width} x {height}");
    }
}

#[test]
fn a_sentence_says_what_happens() {
    let first = |view: &ExpertView| screen(view, 120, 20, Theme::PLAIN)[0].clone();
    assert_eq!(
        first(&view_without_prefetch(4, 64)),
        "Each square is one expert. 80 % of those used were in RAM; disk 0.24 of 1.0 GB/s; prefetch off."
    );
    assert!(first(&view(4, 64, LIMITS)).ends_with("; prefetch on, 75 % right."));
    let mut resident = map(4, 8);
    resident.memory.slot_bytes = 0;
    let mut view = ExpertView::new(LIMITS);
    view.update(resident, Duration::from_secs(1));
    assert_eq!(first(&view), "Each square is one expert. All of them are in RAM.");
}

#[test]
fn the_panel_is_as_wide_as_its_content() {
    let small = view_without_prefetch(6, 16);
    assert_eq!(small.width(98, 40, DARK), 6 + 64 + 7);
    assert_eq!(view_without_prefetch(6, 64).width(98, 40, DARK), 6 + 64 + 7);
    assert_eq!(view_without_prefetch(6, 8).width(98, 40, DARK), 6 + 32 + 7);
    assert_eq!(small.width(50, 40, DARK), 39, "the gauges need more than the map");
}

#[test]
fn rates_are_of_the_last_seconds() {
    let rates = view(24, 128, LIMITS).rates();
    let close =
        |found: Option<f64>, expected: f64| assert!((found.unwrap() - expected).abs() < 1e-9, "{found:?}");
    close(rates.tokens_per_s, 10.0);
    close(rates.hit_rate, 0.8);
    close(rates.recall, 0.75);
    close(rates.disk_gb_per_s, 0.24);
    close(rates.ram_gb_per_s, 4.0);
    close(rates.stalled, 0.25);
    // A token needs 20 ms of RAM and 20 ms of disk.
    close(rates.bound_tokens_per_s, 50.0);
}

#[test]
fn idle_time_does_not_count() {
    let (mut view, first) = (ExpertView::new(LIMITS), map(2, 8));
    view.update(first.clone(), Duration::from_secs(1));
    view.update(later(first.clone()), Duration::from_secs(2));
    for second in 3..30 {
        view.update(later(first.clone()), Duration::from_secs(second));
    }
    assert_eq!(view.rates().tokens_per_s, Some(10.0));
    // After a long gap the window starts anew.
    view.update(later(later(first)), Duration::from_secs(60));
    assert_eq!(view.rates().tokens_per_s, None);
}

/// Above a chat of 80 x 24 two rows are left.
#[test]
fn the_most_informative_gauges_stay() {
    let shown = screen(&view_without_prefetch(30, 16), 80, 11, Theme::PLAIN).join("\n");
    for name in ["tokens/s", "disk ", "found in RAM", "disk stalls"] {
        assert!(shown.contains(name), "{name} is not in {shown}");
    }
}

#[test]
fn reached_rates_raise_the_limits() {
    let (mut view, mut now) = (ExpertView::new(LIMITS), map(1, 8));
    for second in 1..6 {
        now.read_bytes += 1_500_000_000;
        now.decode.tokens += 1;
        view.update(now.clone(), Duration::from_secs(second));
    }
    let rates = view.rates();
    assert_eq!((rates.limits.disk_gb_per_s, rates.limits.ram_gb_per_s), (Some(1.5), Some(20.0)));
    // A short peak does not raise a limit, and an unknown limit stays unknown.
    let mut view = ExpertView::new(Limits { disk_gb_per_s: Some(1.0), ..Limits::default() });
    view.update(map(1, 8), Duration::from_secs(1));
    view.update(now, Duration::from_secs(2));
    assert_eq!(view.rates().limits, Limits { disk_gb_per_s: Some(1.0), ..Limits::default() });
}

#[test]
fn old_samples_leave() {
    let (mut view, mut now) = (ExpertView::new(Limits::default()), map(1, 8));
    for step in 0..1000 {
        now.decode.tokens += if step < 500 { 1 } else { 4 };
        now.decode.used_bytes += 1;
        view.update(now.clone(), Duration::from_millis(10 * step));
    }
    let speed = view.rates().tokens_per_s.unwrap();
    assert!((speed - 400.0).abs() < 1.0, "{speed}");
    assert_eq!(view.rates().bound_tokens_per_s, None, "without limits there is no bound");
}

#[test]
fn any_size_is_drawn() {
    for (layers, experts) in [(1, 1), (6, 64), (24, 128), (48, 128), (94, 512)] {
        let view = view(layers, experts, LIMITS);
        for (width, height) in [(1, 1), (20, 5), (3, 40), (40, 12), (80, 24), (200, 60), (300, 2)] {
            for theme in [DARK, Theme::PLAIN] {
                let shown = screen(&view, width, height, theme);
                assert!(
                    shown.iter().any(|line| !line.is_empty()),
                    "{layers} x {experts} in {width} x {height}"
                );
            }
        }
    }
    assert_eq!(screen(&ExpertView::new(LIMITS), 30, 1, DARK), ["This model has no experts."]);
}

/// Every expert is drawn: pixels and columns cover all layers and experts.
#[test]
fn every_layer_is_drawn() {
    for (layers, experts) in [(1, 1), (7, 60), (24, 128), (48, 128), (94, 512)] {
        let rows = map(layers, experts).rows;
        for (width, height, coloured) in
            [(1, 1, true), (50, 10, true), (64, 12, false), (200, 60, true), (64, 19, true)]
        {
            let grid = Grid::fit(&rows, width, height, coloured);
            assert!(grid.columns() <= width && grid.height() <= height, "{grid:?} in {width} x {height}");
            let seen: Vec<_> = (0..grid.height()).flat_map(|row| grid.layers(row)).collect();
            assert_eq!(seen, (0..layers).collect::<Vec<_>>(), "{grid:?}");
        }
    }
}
