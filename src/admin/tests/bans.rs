//! Addresses that are shut out, over HTTP.

use super::pins::post;
use super::*;

#[test]
fn bans_are_shown_with_what_they_are_for() {
    let admin = serve(fake(), None);
    let (status, head, body) = exchange(admin.address(), "GET /bans HTTP/1.1\r\nHost: x\r\n\r\n");
    let json: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    let failed = serde_json::json!({ "connections": 153, "malformed": 2, "refused": 0, "registers": 1 });
    let row = serde_json::json!({
        "address": "203.0.113.66", "since_s": 60, "left_s": 540, "time": 2, "failed": failed, "turned_away": 4312,
    });
    assert_eq!((status, json), (200, serde_json::json!([row])));
    assert!(head.contains("content-type: application/json"), "{head}");
    let silent = serve(Fake { silent: vec![0], ..fake() }, None);
    assert_eq!(exchange(silent.address(), "GET /bans HTTP/1.1\r\nHost: x\r\n\r\n").0, 503);
    assert_eq!(post(silent.address(), "/unban?address=203.0.113.66", "").0, 503);
}

#[test]
fn an_address_is_let_in_by_who_may_ask_for_it() {
    let admin = serve(fake(), Token::new("s3cret-of-the-operator"));
    let to = admin.address();
    let token = "Authorization: Bearer s3cret-of-the-operator\r\n";
    let ask = |path: &str, lines: &str| {
        let (status, _, json) = post(to, path, lines);
        (status, json["error"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(ask("/unban?address=203.0.113.66", "").0, 401);
    assert_eq!(exchange(to, "GET /bans HTTP/1.1\r\nHost: x\r\n\r\n").0, 401);
    assert_eq!(ask("/unban?address=203.0.113.66", &format!("{token}Origin: null\r\n")).0, 403);
    assert_eq!(ask("/unban?address=203.0.113.66", token), (200, String::new()));
    assert_eq!(ask("/unban?address=203.0.113.67", token), (404, "it is not shut out".into()));
    assert_eq!(ask("/unban?address=host", token), (400, "which? /unban?address=192.0.2.1".into()));
    let get = format!("GET /unban?address=203.0.113.66 HTTP/1.1\r\nHost: x\r\n{token}\r\n");
    assert_eq!(exchange(to, &get).0, 405);
}
