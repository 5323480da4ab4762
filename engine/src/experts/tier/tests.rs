//! What a tier decides, with a device that does nothing, and what it does when the device fails.

use super::super::device::SharedOffer;
use super::*;

/// A device that fails from some call on.
struct Nothing {
    left: usize,
}

impl Nothing {
    fn call(&mut self) -> Result<(), String> {
        self.left = self.left.checked_sub(1).ok_or("it was unplugged")?;
        Ok(())
    }
}

impl ExpertDevice for Nothing {
    fn upload(&mut self, _: usize, _: usize, _: &ExpertView<'_>) -> Result<(), String> {
        self.call()
    }

    fn begin(&mut self, _: usize, _: &[usize], _: bool, _: &[Line]) -> Result<(), String> {
        self.call()
    }

    fn finish(&mut self, _: &mut [f32]) -> Result<(), String> {
        self.call()
    }
}

fn tier(slots: usize, left: usize, always: bool) -> DeviceTier {
    DeviceTier::new(offer(slots, left, always), [8].into_iter())
}

fn offer(slots: usize, left: usize, always: bool) -> DeviceOffer {
    DeviceOffer {
        device: Box::new(Nothing { left }),
        name: "nothing".to_owned(),
        arithmetic: String::new(),
        exact: true,
        slots: vec![slots],
        bytes: 0,
        shared: Vec::new(),
        head: None,
        launch: Duration::from_micros(100),
        each: vec![Duration::from_micros(20)],
        upload: 1e9,
        always,
    }
}

fn expert() -> ExpertView<'static> {
    let none = moelten_quant::QMatrix::new(moelten_quant::Format::Q8_0, 0, 0, &[]).unwrap();
    ExpertView { gate: None, up: none, down: none, gate_bias: None, up_bias: None }
}

/// A token's experts: what is computed by the device, after which all uploads are made.
fn token(tier: &DeviceTier, ids: &[u32]) -> Vec<u32> {
    let mut work = DeviceWork::default();
    tier.request(0, ids, true, &mut work);
    assert!(work.uploads.len() <= MOST_UPLOADS);
    work.uploads.iter().for_each(|upload| assert!(tier.upload(0, upload, &expert())));
    work.hits.iter().map(|hit| ids[hit.index]).collect()
}

#[test]
fn experts_get_a_slot_at_their_second_use_and_the_least_used_lose_it() {
    let tier = tier(2, usize::MAX, true);
    assert!(token(&tier, &[1, 2]).is_empty());
    assert_eq!(tier.stats().uploads, 0, "one use is not enough");
    assert!(token(&tier, &[1, 2, 3]).is_empty());
    assert_eq!(token(&tier, &[1, 2, 3]), [1, 2], "both have slots now");
    assert_eq!(token(&tier, &[1, 3]), [1]);
    assert_eq!(tier.stats().uploads, 2, "3 is not used more than 2 by one use");
    for _ in 0..3 {
        token(&tier, &[3]);
    }
    assert_eq!(token(&tier, &[1, 2, 3]), [1, 3], "it has taken the place of 2");
    let stats = tier.stats();
    assert_eq!((stats.held, stats.slots, stats.uploads), (2, 2, 3));
}

#[test]
fn one_trace_leaves_one_content() {
    let run = || {
        let (tier, mut random, mut hits) = (tier(3, usize::MAX, true), 9_u64, Vec::new());
        for _ in 0..300 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let first = (random >> 60) as u32 % 7;
            hits.push(token(&tier, &[first.min(3), 4 + first % 4]));
        }
        hits
    };
    assert_eq!(run(), run());
    assert!(run().concat().len() > 100, "it is used at all");
}

#[test]
fn a_copy_is_not_computed_by_the_device_before_times_are_known() {
    let tier = tier(2, usize::MAX, false);
    for _ in 0..3 {
        token(&tier, &[1, 2]);
    }
    let mut work = DeviceWork::default();
    tier.request(0, &[1, 2], false, &mut work);
    assert!(work.hits.is_empty());
    for _ in 0..LEARN {
        tier.host_took(Duration::from_millis(2), 2);
    }
    tier.request(0, &[1, 2], false, &mut work);
    assert_eq!(work.hits.len(), 2, "a submission takes less than one expert on the CPU");
    assert_eq!(tier.stats().host, Duration::from_millis(1));
}

#[test]
fn a_device_that_fails_is_dropped_and_says_why() {
    for left in 0..2 {
        let tier = tier(2, left, true);
        let mut work = DeviceWork::default();
        tier.request(0, &[1], true, &mut work);
        tier.request(0, &[1], true, &mut work);
        let upload = work.uploads[0];
        assert!(upload.verify, "the first of a bank is compared with the CPU");
        let uploaded = tier.upload(0, &upload, &expert());
        assert_eq!(uploaded, left == 1);
        assert!(!tier.begin(0, &[Hit { index: 0, slot: 0 }], false, &[]) && !tier.alive());
        assert_eq!(tier.stats().dropped.as_deref(), Some("it was unplugged"));
        assert_eq!(tier.stats().held, 0);
        tier.request(0, &[1], true, &mut work);
        assert!(work.hits.is_empty());
        assert!(!tier.finish(&mut []));
    }
}

#[test]
fn a_device_that_is_slower_than_doing_without_it_is_found_out() {
    let (millis, tier) = (Duration::from_millis, tier(2, usize::MAX, false));
    let judge = |wait: u64, read: f64| (0..JUDGE_EVERY).any(|_| tier.waited(millis(wait), 2, read, None));
    assert!(!judge(100, 0.0), "how long the CPU takes is not known");
    for _ in 0..LEARN {
        tier.host_took(millis(2), 2);
    }
    assert!(!judge(1, 0.0), "two experts take the CPU 2 ms");
    assert!(judge(3, 0.0));
    assert!(!judge(3, 0.002), "and would have to be read in 2 ms");
}

#[test]
fn copies_count_when_they_take_longer_than_they_can_save() {
    let copies = |copying: f64, copies: u32| Waited { copying, copies, ..Waited::default() };
    // An expert takes the CPU a millisecond, so a copy may take 16.
    assert!(!copies(6.0, 1000).in_vain(1e-3));
    assert!(copies(6.0, 10).in_vain(1e-3), "more than five seconds are lost");
    assert!(!copies(1.0, 10).in_vain(1e-3), "not yet");
    assert!(Waited { layers: JUDGE_EVERY, ..copies(1.0, 10) }.in_vain(1e-3), "but for long");
    // Experts that are read from a disk take longer, so copies may too.
    let streamed = Waited { hits: 100, without: 1.0, ..copies(6.0, 50) };
    assert!(!streamed.in_vain(1e-3));
    let head = Waited { layers: JUDGE_EVERY, seconds: 1.0, beside: 2.0, ..Waited::default() };
    assert!(!head.in_vain(1e-3), "rows of the head are saved too");
    let tier = tier(2, usize::MAX, false);
    tier.state().waited = copies(6.0, 1);
    assert!(!tier.copies_in_vain(), "how long the CPU takes is not known");
    (0..LEARN).for_each(|_| tier.host_took(Duration::from_millis(2), 2));
    assert!(tier.copies_in_vain());
}

#[test]
fn times_never_decide_what_is_there() {
    let content = |host: u64| {
        let (tier, mut random) = (tier(3, usize::MAX, false), 5_u64);
        let mut work = DeviceWork::default();
        for _ in 0..200 {
            tier.host_took(Duration::from_micros(host), 1);
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let first = (random >> 60) as u32 % 7;
            let ids = [first.min(3), 4 + first % 4];
            tier.request(0, &ids, false, &mut work);
            assert!(work.uploads.len() <= MOST_UPLOADS);
            work.uploads.iter().for_each(|upload| assert!(tier.upload(0, upload, &expert())));
        }
        let slots = tier.state().banks[0].0.slots.clone();
        (slots, tier.stats())
    };
    let ((slow, with), (fast, without)) = (content(10_000), content(0));
    assert!(with.used > 50 && without.used == 0, "one computes what the other does not");
    assert_eq!(slow, fast);
    assert!(with.uploads > 3);
}

/// A shared expert goes to the device where that is faster, also beside experts that would be read otherwise.
#[test]
fn shared_experts_are_split_by_times_too() {
    let micros = Duration::from_micros;
    let tier = |always: bool, time: u64| {
        let shared = vec![Some(SharedOffer { bytes: 1000, time: micros(time) })];
        DeviceTier::new(DeviceOffer { shared, ..offer(2, usize::MAX, always) }, [8].into_iter())
    };
    let asked = |tier: &DeviceTier, must: bool| {
        let mut work = DeviceWork::default();
        tier.request(0, &[1, 2], must, &mut work);
        (work.shared, work.check_shared)
    };
    let learnt = |tier: &DeviceTier, host: u64| {
        (0..LEARN).for_each(|_| tier.host_took(micros(2 * host), 2));
        (0..LEARN).for_each(|_| tier.shared_took(0, micros(host)));
    };
    assert_eq!(asked(&tier(true, 20), false), (true, true), "the first is compared with the CPU's");
    let fast = tier(false, 20);
    assert_eq!(asked(&fast, false), (false, false), "what the CPU takes is not known");
    learnt(&fast, 200);
    assert_eq!(asked(&fast, false), (true, true));
    assert_eq!(asked(&fast, true), (true, false), "the next ones are not");
    fast.shared_computed(0);
    let stats = fast.stats();
    assert_eq!((stats.shared, stats.shared_used, stats.shared_used_bytes), (1, 1, 1000));
    assert_eq!((stats.shared_host, stats.shared_each), (micros(200), micros(20)));
    let slow = tier(false, 5000);
    learnt(&slow, 200);
    assert_eq!([asked(&slow, false), asked(&slow, true)], [(false, false); 2]);
    // Waiting for it is paid for by what the CPU would have taken.
    let judge = |wait: u64| (0..JUDGE_EVERY).any(|_| fast.waited(micros(wait), 0, 0.0, Some(0)));
    assert!(!judge(150) && judge(250));
}
