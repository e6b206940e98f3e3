//! What may be changed over HTTP, and by whom.

use super::*;

pub(super) fn post(to: SocketAddr, path: &str, lines: &str) -> (u16, String, serde_json::Value) {
    let request = format!("POST {path} HTTP/1.1\r\nHost: {to}\r\nContent-Length: 0\r\n{lines}\r\n");
    let (status, head, body) = exchange(to, &request);
    (status, head, serde_json::from_str(&body).unwrap_or_default())
}

#[test]
fn a_pin_and_a_release_reach_the_pair() {
    let fake = fake();
    let pins = Arc::clone(&fake.pins);
    let admin = serve(fake, None);
    let to = admin.address();
    let (status, head, json) = post(to, "/servers/sips%201/pin?member=backup", "");
    assert_eq!((status, json), (200, serde_json::json!({ "name": "sips 1", "pinned": "backup" })));
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(post(to, "/servers/sips%201/pin?member=primary", "").0, 200);
    let (status, _, json) = post(to, "/servers/sips%201/release", "");
    assert_eq!((status, json), (200, serde_json::json!({ "name": "sips 1", "pinned": null })));
    let expected = [Some(Member::Backup), Some(Member::Primary), None];
    assert_eq!(*pins.lock().expect("no test panics with it"), expected);
}

#[test]
fn what_cannot_be_done_is_said() {
    let fake = fake();
    let pins = Arc::clone(&fake.pins);
    let admin = serve(fake, None);
    let to = admin.address();
    for (path, status, why) in [
        ("/servers/other/release", 404, "there is no pair of this name"),
        ("/servers/other/pin?member=primary", 404, "there is no pair of this name"),
        ("/servers/alone/pin?member=backup", 404, "the pair has no backup"),
        ("/servers/sips%201/pin", 400, "which? member=primary or member=backup"),
        ("/servers/sips%201/pin?member=both", 400, "which? member=primary or member=backup"),
        ("/servers/%f/release", 400, "the name of the pair is not well escaped"),
    ] {
        let (found, _, json) = post(to, path, "");
        assert_eq!((found, &json["error"]), (status, &serde_json::json!(why)), "{path}");
    }
    assert_eq!(post(to, "/servers/silent/release", "").0, 503);
    assert_eq!(post(to, "/servers/sips%201/other", "").0, 404);
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        let request = format!("{method} /servers/sips%201/release HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        let (status, head, _) = exchange(to, &request);
        assert_eq!(status, 405, "{method}");
        assert!(head.contains("allow: post"), "{head}");
    }
    assert!(pins.lock().expect("no test panics with it").is_empty());
}

#[test]
fn a_page_of_another_origin_changes_nothing() {
    let fake = fake();
    let pins = Arc::clone(&fake.pins);
    let admin = serve(fake, None);
    let to = admin.address();
    let path = "/servers/sips%201/pin?member=backup";
    for line in ["Origin: http://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        assert_eq!(post(to, path, line).0, 403, "{line}");
    }
    assert!(pins.lock().expect("no test panics with it").is_empty());
    assert_eq!(post(to, path, &format!("Origin: http://{to}\r\n")).0, 200);
}

#[test]
fn a_pin_needs_the_token() {
    let fake = fake();
    let pins = Arc::clone(&fake.pins);
    let admin = serve(fake, Token::new("s3cret-of-the-operator"));
    let path = "/servers/sips%201/release";
    assert_eq!(post(admin.address(), path, "").0, 401);
    assert!(pins.lock().expect("no test panics with it").is_empty());
    assert_eq!(post(admin.address(), path, "Authorization: Bearer s3cret-of-the-operator\r\n").0, 200);
}
