//! The engine against renderings that Jinja2 made in the environment of `transformers`
//! (`loader/tests/data/README.md`).

use serde_json::{Map, Value};

use super::template::Template;

const RECORDED: &str = include_str!("../../../tests/data/jinja.json");

/// The time of the recording.
const NOW: u64 = 1_707_491_045;

fn recorded() -> Value {
    serde_json::from_str(RECORDED).unwrap()
}

fn render(source: &str, variables: &Map<String, Value>) -> Option<String> {
    Template::compile(source).and_then(|template| template.render(variables, NOW)).ok()
}

/// Compares pairs of a source and what Jinja2 made of it, null for an error; the number of pairs.
fn compare(pairs: &Value, wrapped: bool, variables: &Map<String, Value>) -> usize {
    let mut wrong = Vec::new();
    let pairs = pairs.as_array().unwrap();
    for pair in pairs {
        let (source, expected) = (pair[0].as_str().unwrap(), pair[1].as_str());
        let wrap = if wrapped { format!("{{{{ {source} }}}}") } else { source.to_owned() };
        let found = render(&wrap, variables);
        if found.as_deref() != expected {
            wrong.push(format!("{source}\n    here   {found:?}\n    jinja2 {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), pairs.len(), wrong.join("\n"));
    pairs.len()
}

#[test]
fn expressions_mean_what_jinja2_means() {
    let recorded = recorded();
    let variables = recorded["variables"].as_object().unwrap();
    assert!(compare(&recorded["expressions"], true, variables) >= 500);
}

#[test]
fn statements_mean_what_jinja2_means() {
    let recorded = recorded();
    let variables = recorded["variables"].as_object().unwrap();
    assert!(compare(&recorded["templates"], false, variables) >= 120);
}

#[test]
fn published_templates_render_as_in_jinja2() {
    let recorded = recorded();
    let conversations = recorded["conversations"].as_array().unwrap();
    let mut wrong = Vec::new();
    for template in recorded["real"].as_array().unwrap() {
        let (name, source) = (template["name"].as_str().unwrap(), template["source"].as_str().unwrap());
        let mut found = Vec::new();
        let mut variables = Map::new();
        variables.insert("bos_token".into(), "<s>".into());
        variables.insert("eos_token".into(), "</s>".into());
        variables.insert("add_generation_prompt".into(), true.into());
        for conversation in conversations {
            variables.insert("messages".into(), conversation.clone());
            found.push(render(source, &variables));
        }
        variables.insert("add_generation_prompt".into(), false.into());
        found.push(render(source, &variables));
        variables.insert("messages".into(), conversations[1].clone());
        variables.insert("add_generation_prompt".into(), true.into());
        variables.insert("tools".into(), recorded["variables"]["tools"].clone());
        found.push(render(source, &variables));
        let expected = template["renderings"].as_array().unwrap();
        assert_eq!(found.len(), expected.len());
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            if found.as_deref() != expected.as_str() {
                wrong.push(format!("{name} {at}\n    here   {found:?}\n    jinja2 {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
