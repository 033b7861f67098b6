//! `admin`.

use super::*;

fn admin(text: &str) -> Admin {
    valid(&with_top(&format!("admin: {text}"))).admin.unwrap()
}

#[test]
fn without_the_key_nobody_is_answered() {
    assert_eq!(valid(&with_top("")).admin, None);
}

#[test]
fn admin_means_what_it_says() {
    let local = admin("{ address: '127.0.0.1:9901' }");
    let address = AdminAddress::Tcp(([127, 0, 0, 1], 9901).into());
    assert_eq!(local, Admin { address, token_file: None, hosts: Vec::new() });
    assert_eq!(admin("{ address: 'unix:/run/a.sock' }").address, AdminAddress::Unix("/run/a.sock".into()));
    let public =
        admin("{ address: ':9901', token_file: /etc/snigate/token, hosts: [Gate.example, '192.0.2.1', '::1'] }");
    assert_eq!(public.token_file.as_deref(), Some(Path::new("/etc/snigate/token")));
    assert_eq!(public.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(), ["gate.example", "192.0.2.1", "::1"]);
    assert_eq!(public.address.to_string(), ":9901");
    for local in ["127.0.0.1:1", "[::1]:1", "unix:/a"] {
        assert!(admin(&format!("{{ address: '{local}' }}")).address.is_local());
    }
    assert_prints_back(&with_top("admin: { address: '127.0.0.1:9901' }"));
    assert_prints_back(&with_top("admin: { address: 'unix:/run/a b.sock', hosts: [a.test] }"));
    assert_prints_back(&with_top("admin: { address: ':9901', token_file: /etc/snigate/token }"));
}

#[test]
fn an_admin_that_is_none_is_a_mistake() {
    let open = "can be reached from elsewhere, and without a token by anybody: name a `token_file`, or listen on \
                `127.0.0.1` or at `unix:/path`";
    assert_mistakes(&[
        (with_top("admin: {}"), &["admin.address: is missing"][..]),
        (with_top("admin: { address: ':9901' }"), &[&format!("admin: `:9901` {open}")]),
        (with_top("admin: { address: '10.0.0.1:9901' }"), &[&format!("admin: `10.0.0.1:9901` {open}")]),
        (
            with_top("admin: { address: 'unix:admin.sock' }"),
            &["admin.address: \"admin.sock\" is no absolute path: write one such as `unix:/run/snigate/admin.sock`"],
        ),
        (
            with_top("admin: { address: ':9901', token_file: token, hosts: ['a.test:1', a.test, a.test] }"),
            &[
                "admin.token_file: \"token\" is no absolute path",
                "admin.hosts[0]: \"a.test:1\" is no host (write it without a port): it has a character other \
                 than letters, digits, '-' and '_' (write an IDN in its xn-- form)",
                "admin.hosts[2]: `a.test` is listed twice",
            ],
        ),
        (
            with_top("admin: { address: '127.0.0.1:6443' }"),
            &["admin.address: is taken by listeners[0] already: choose another port"],
        ),
    ]);
}
