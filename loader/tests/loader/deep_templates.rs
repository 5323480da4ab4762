//! Templates that make deep values, call themselves, or are nested without end: all end with an error.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use moelten_loader::text::chat::ChatTemplate;

/// Nothing that a template makes is so deep that it takes the stack to walk or to free it. The threads of
/// tests have two MiB, a quarter of what a program's first thread has.
#[test]
fn nothing_is_deeper_than_the_stack() {
    let opening = "{% set ns = namespace(x=none) %}{% for i in range(99999) %}";
    let deep = [
        "{% set ns.x = [ns.x] %}",
        "{% set ns.x = (ns.x, i) %}",
        "{% set ns.x = {'a': ns.x} %}",
        "{% set ns.x = dict(a=ns.x) %}",
        "{% set ns.x = namespace(a=ns.x) %}",
        "{% set ns.x = cycler(ns.x, 1) %}",
        "{% set ns.x = [ns.x] | map('default') %}",
        "{% set old = ns.x %}{% macro f() %}{{ old }}{% endmacro %}{% set ns.x = f %}",
        "{% for j in [ns.x] %}{% set ns.x = loop %}{% endfor %}",
        "{% for j in [ns.x] recursive %}{% set ns.x = loop %}{% endfor %}",
        "{% set ns.x = [ns.x].index %}",
        "{% set a = ns.x %}{% set b %}{% macro g() %}{% endmacro %}{% endset %}{% set ns.x = g %}",
    ];
    for body in deep {
        let result = ChatTemplate::new("deep", &format!("{opening}{body}{{% endfor %}}ok"));
        println!("{body}: {:?}", result.map(|_| ()).map_err(|error| error.to_string()));
    }
    let nested = |open: &str, close: &str, count: usize| {
        format!("{}{}{}", open.repeat(count), "1", close.repeat(count))
    };
    let recursive = [
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_owned(),
        "{% macro f(n) %}{% if n %}{% for i in [1] %}{{ [f(n + 1)] | map('trim') | join }}{% endfor %}{% endif %}\
         {% endmacro %}{{ f(1) }}"
            .to_owned(),
        "{% macro f(n) %}{% set x %}{% filter upper %}{% with a = f(n) %}{% endwith %}{% endfilter %}{% endset %}\
         {% endmacro %}{{ f(1) }}"
            .to_owned(),
        "{% macro f() %}{% call f() %}{{ f() }}{% endcall %}{{ caller() }}{% endmacro %}{% call f() %}{% endcall %}"
            .to_owned(),
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{% macro f(x=f()) %}{% endmacro %}{{ f() }}".to_owned(),
        format!("{{{{ {} }}}}", nested("(", ")", 100_000)),
        format!("{{{{ {} }}}}", nested("[", "]", 100_000)),
        format!("{{{{ {} }}}}", nested("[", "]", 110)),
        format!("{{{{ {} }}}}", nested("not ", "", 100_000)),
        format!("{{{{ {} }}}}", nested("- ", "", 100_000)),
        format!("{{{{ {} }}}}", nested("1 if ", " else 2", 80_000)),
        format!("{{{{ 1{} }}}}", " if 1".repeat(100_000)),
        format!("{{{{ 1{} }}}}", " if 1 else 1".repeat(80_000)),
        format!("{{{{ x{} }}}}", "(".repeat(100_000)),
        format!("{{{{ x{} }}}}", " is a".repeat(100_000)),
        format!("{}{}", "{% for i in [1] %}".repeat(30_000), "{% endfor %}".repeat(30_000)),
        format!("{}{}", "{% macro f() %}".repeat(30_000), "{% endmacro %}".repeat(30_000)),
        format!("{{{{ '{}'.format(1) }}}}", nested("{", "}", 99_999)),
        format!("{{{{ 1|{} }}}}", vec!["map('map'"; 80_000].join(", ")),
        format!("{{% for {} in [1] %}}{{% endfor %}}", nested("(", ")", 100_000).replace('1', "x")),
    ];
    for source in recursive {
        let start = std::time::Instant::now();
        let result = ChatTemplate::new("recursive", &source);
        let shown = &source[..source.len().min(100)];
        assert!(result.is_err(), "{shown}");
        assert!(start.elapsed().as_secs_f64() < 2.0, "{shown}: {:?}", start.elapsed());
        println!("{shown}: {}", result.unwrap_err());
    }
    // As many operators as fit are no depth.
    for wide in ["1{ + 1}", "1{ ~ 1}", "1{ and 1}", "1{ == 1}", "'a'{ 'a'}", "x{|default(1)}", "'a'{[:]}"] {
        let (first, rest) = wide.split_once('{').unwrap();
        let source = format!("{{{{ {first}{} }}}}", rest.trim_end_matches('}').repeat(20_000));
        ChatTemplate::new("wide", &source).unwrap_or_else(|error| panic!("{wide}: {error}"));
    }
}
