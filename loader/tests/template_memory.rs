//! B60: templates that grow strings and lists without end. Apart from the other tests, because what is
//! measured is the memory of the whole process.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use moelten_loader::error::LoadError;
use moelten_loader::text::chat::ChatTemplate;

/// Largest resident size of this process so far, in KiB; 0 where the system does not say.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[test]
fn b60_doubling_ends_at_the_allowance() {
    let growing = [
        "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x * 2 %}{% endfor %}",
        "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = '%s%s' % (ns.x, ns.x) %}{% endfor %}",
        "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
        "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x.replace('a', 'aa') * 2 %}{% endfor %}",
        "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set ns.x = ns.x | replace('', ns.x) %}{% endfor %}",
        "{% set ns = namespace(x='abcdefgh') %}{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
        "{% macro f(x, n) %}{% if n %}{{ f(x ~ x, n - 1) }}{% endif %}{% endmacro %}{{ f('abcdefghijklmnop' * 4096, 15) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% else %}abcdefgh{% endif %}{% endmacro %}{{ f(11) * 40000 }}",
        "{% set ns = namespace(x=['abcdefgh']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | string | length }}",
        "{% set ns = namespace(x={'a': 1}) %}{% for i in range(60) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x={'a': 1}) %}{% for i in range(60) %}{% set ns.x = dict(a=ns.x, b=ns.x) %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = ns.x + [range(99999) | list] %}{% endfor %}",
        "{% set x = 'y' * 9000000 %}{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = ns.l + [x[1:]] %}{% endfor %}",
        "{% set x %}{% for i in range(99999) %}RAW{% endfor %}{% endset %}{{ x }}",
        "{% for i in range(99999) %}RAW{% endfor %}",
        "{{ 'x' | indent(1000000000) }}",
        "{{ 'x\n' * 1000000 | indent(60000) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:>{w}}'.format(1, w=1000000000) }}",
        "{{ range(99999) | map('string') | map('replace', '', 'x' * 1000000) | list }}",
        "{{ 'x' * 90000000 }}",
        "{{ 'x' * 1000 * 1000 * 90 }}",
        "{{ ['x'] * 90000000 }}",
        "{{ 'x' * 10 ** 8 }}",
        "{% set n = 90000000 %}{{ 'x' * n }}",
        "{% set n = 90000000 %}{{ [n] * n }}",
    ];
    let raw = "raw text ".repeat(10_000);
    let before = peak_kib();
    for source in growing {
        let source = source.replace("RAW", &raw);
        let start = std::time::Instant::now();
        let result = ChatTemplate::new("growing", &source);
        let shown = &source[..source.len().min(200)];
        assert!(
            matches!(result, Err(LoadError::Template { .. } | LoadError::Malformed { .. })),
            "{shown}: {result:?}"
        );
        assert!(start.elapsed().as_secs_f64() < 2.0, "{shown}: {:?}", start.elapsed());
        let grown = (peak_kib() - before) >> 10;
        println!("{grown} MiB after {shown}: {}", result.unwrap_err());
        assert!(grown <= 96, "{shown}: {grown} MiB");
    }
}

/// The engine prints such a value until the stack is full.
#[test]
fn namespaces_form_no_circle() {
    let circles = [
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns.x | string }}",
        "{% set ns = namespace() %}{% set ns.x = {'a': (ns, 1)} %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = dict(a=ns) %}{{ ns }}",
        "{% set ns = namespace() %}{% set b = namespace(a=ns) %}{% set ns.x = b %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [1] | batch(2, ns) | list %}{{ ns }}",
        "{% set ns = namespace() %}{% macro f() %}{{ ns }}{% endmacro %}{% set ns.x = f %}{{ f() }}{{ ns }}",
    ];
    for source in circles {
        println!("{source}");
        println!("  {:?}", ChatTemplate::new("circle", source).map(|_| ()));
    }
    let sound = "{% set ns = namespace(a=1) %}{% set ns.a = ns.a + 1 %}{% set ns.b = [ns.a] %}{{ ns.a }}{{ ns.b[0] }}";
    ChatTemplate::new("sound", sound).unwrap();
}
