//! Saved conversations, commands and settings: any file is loaded or refused, any entry is a question, a
//! command or an error, and what is saved can be loaded again, equal to what was saved.
#![no_main]

use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use moelten_engine::api::GenerateParams;
use moelten_loader::text::plain::text_of;
use moelten_tui::chat::{Chat, ChatEffect, ChatEvent, Facts, Failure, FileEvent, OverflowChoice};
use moelten_tui::fuzzing::{Setting, Transcript, to_markdown};

/// Carries out what the conversation wants: written files are read again at once.
fn perform(chat: &mut Chat, effects: Vec<ChatEffect>, depth: usize) {
    for effect in effects {
        let event = match effect {
            ChatEffect::Keep(text) => {
                let kept = Transcript::from_json(&text).expect("what is kept can be loaded");
                assert_eq!(kept.to_json(), text);
                assert!(kept.messages.len() <= chat.turns().len());
                Some(ChatEvent::File(FileEvent::Kept(Ok(()))))
            }
            ChatEffect::Write { path, text, messages, .. } => {
                if let Ok(saved) = Transcript::from_json(&text) {
                    assert_eq!(saved.messages.len(), messages);
                }
                Some(ChatEvent::File(FileEvent::Written { path, messages, result: Ok(()) }))
            }
            ChatEffect::Read { path } => {
                Some(ChatEvent::File(FileEvent::Read { path, result: Err("not here".into()) }))
            }
            ChatEffect::Ask => Some(ChatEvent::Chosen(OverflowChoice::Drop)),
            ChatEffect::Answer(_) => {
                let failure = Failure::Other("not here".into());
                Some(ChatEvent::Failed { shown: "a".into(), failure })
            }
            _ => None,
        };
        if let Some(event) = event.filter(|_| depth > 0) {
            let effects = chat.handle(event);
            perform(chat, effects, depth - 1);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = text_of(bytes) else { return };
    assert!(!text.contains('\0'));
    if let Ok(found) = Transcript::from_json(&text) {
        assert_eq!(Transcript::from_json(&found.to_json()).as_ref(), Ok(&found));
        let shown = to_markdown(&found.model, found.system.as_deref(), &found.messages);
        assert!(!shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
    }
    let facts = Facts { model: "m".into(), context: 100, supports_system: true, ..Facts::default() };
    let mut chat = Chat::new(facts, GenerateParams::default(), None);
    chat.keep_conversations();
    let mut step = |event| {
        let effects = chat.handle(event);
        perform(&mut chat, effects, 4);
    };
    step(ChatEvent::File(FileEvent::Last {
        path: PathBuf::from("l"),
        text: text.clone().into_owned(),
        shared: false,
    }));
    for entry in text.split('\u{1e}').take(32) {
        step(ChatEvent::Entered(entry.to_owned()));
        let (name, value) = entry.split_once(' ').unwrap_or((entry, ""));
        if let Some(setting) = Setting::named(name) {
            let mut params = GenerateParams::default();
            if setting.set(&mut params, value).is_ok() && setting != Setting::Stop {
                let printed = setting.get(&params);
                let before = params.clone();
                setting.set(&mut params, &printed).expect("a setting takes the value that it prints");
                assert_eq!(params, before);
            }
        }
    }
    step(ChatEvent::Entered("/undo 1000".into()));
    step(ChatEvent::EndOfInput);
});
