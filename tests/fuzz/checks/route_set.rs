//! The Routes of an endpoint's request, and where they lead. Input: how it came, the request. In the request these stand for
//! URIs of ours, which an endpoint may have seen:
//!
//! | text | URI |
//! | --- | --- |
//! | `%O` | its own Record-Route, in the dialog `d` that the tag `f` began |
//! | `%S` | the same, facing the server |
//! | `%Q` | the Record-Route of its partner in that dialog |
//! | `%D` | another phone's Record-Route in a dialog of the same Call-ID that another party began |
//! | `%V` | another phone's Record-Route in another dialog |
//! | `%P` | another phone's Path |
//! | `%A` | another phone's alias |
//! | `%X` | its partner's Record-Route, made with another key |
//! | `%B` | its partner's Record-Route of another start, in which that had the number that its own flow has now |

use hawser::engine::Settings;
use hawser::flow::keys::Keys;
use hawser::flow::token::{Dialog, Facing, Kind, Token};
use hawser::ids::{BindingId, FlowRef, Transport};
use hawser::proxy::{Names, Target, record_route, route, target, trust};
use hawser::sip::{Message, Method};

use super::parts::{Front, filled};
use super::place;

/// The dialog that its own values are of.
const DIALOG: Dialog<'static> = Dialog { call_id: b"d", tag: b"f" };

/// See the module.
pub fn check(data: &[u8]) {
    let mut front = Front(data);
    let flags = front.byte();
    let settings = place::settings(Transport::Udp);
    let names = Names::new(&settings);
    let source = if flags & 1 != 0 { place::server() } else { place::stranger(flags & 2 != 0) };
    let Ok(request) = Message::scan(filled_in(front.0, source.flow, &settings), false) else { return };
    if !request.is_request() || request.fault().is_some() {
        return;
    }
    let here = place::here(&settings);
    let routes = route::read(&request, &source, &names, &place::keys(), here);
    assert!(routes.own_count <= request.route_uris().len());
    let _ = target::placement_from_server(&request, &routes, &names, here, |_| 0);
    let found = target::target(&request, &routes, source.side, &names, here);
    if flags & 1 != 0 {
        let _ = target::beyond_table(&request, &names).map(|found| (found, target::alias_of(&routes)));
        return;
    }
    let Ok(found) = found else { return };
    let in_dialog = request.call_id() == DIALOG.call_id
        && !request.to_tag().is_empty()
        && [request.from_tag(), request.to_tag()].contains(&DIALOG.tag)
        && request.method() != Some(Method::Register);
    match found {
        Target::Myself => assert_eq!(request.method(), Some(Method::Options)),
        Target::Server { pair: 0, at } => assert!(at.is_none_or(|at| at == place::address(place::SERVER))),
        Target::Flow { flow, .. } => {
            assert!(in_dialog, "a token outside of its dialog is a target");
            assert_eq!(flow, partners_flow(), "a stranger has chosen its target");
        }
        Target::Gone { .. } => assert!(in_dialog, "a token outside of its dialog is a target"),
        other => panic!("an endpoint's request goes to {other:?}"),
    }
    assert_eq!(trust::may_bind(&source, &found), matches!(found, Target::Server { .. }));
}

fn partners_flow() -> FlowRef {
    place::stream(2)
}

fn victims_flow() -> FlowRef {
    place::stream(3)
}

fn filled_in(text: &[u8], own: FlowRef, settings: &Settings) -> Vec<u8> {
    let (keys, others_keys) = (place::keys(), Keys::new(&[8; 32]));
    let victim = BindingId { user: 3, hash: 3 };
    let uri = |of: &Settings, kind, facing, flow, binding, dialog: Dialog<'_>, keys: &Keys| {
        let (member, boot) = (of.member, of.boot);
        let made =
            Token { member, boot, kind, facing, late: false, opened: false, ob: false, flow: Some(flow), binding };
        let mut out = Vec::new();
        record_route::write_uri(&made, &place::point(Transport::Tls, 5061), false, keys, dialog, &mut out);
        out
    };
    let route = |facing, flow, dialog, keys: &Keys| uri(settings, Kind::RecordRoute, facing, flow, None, dialog, keys);
    let before = Settings { boot: settings.boot ^ 1, ..settings.clone() };
    let of_before = uri(&before, Kind::RecordRoute, Facing::Both, own, None, DIALOG, &keys);
    let begun_by_another = Dialog { tag: b"g", ..DIALOG };
    let elsewhere = Dialog { call_id: b"v", ..DIALOG };
    let mut alias = Vec::new();
    let point = place::point(Transport::Udp, 5060);
    record_route::write_uri(&Token::alias(victim), &point, false, &keys, Dialog::NONE, &mut alias);
    filled(
        text,
        &[
            (b'O', &route(Facing::Endpoint, own, DIALOG, &keys)),
            (b'S', &route(Facing::Server, own, DIALOG, &keys)),
            (b'Q', &route(Facing::Both, partners_flow(), DIALOG, &keys)),
            (b'D', &route(Facing::Both, victims_flow(), begun_by_another, &keys)),
            (b'V', &route(Facing::Both, victims_flow(), elsewhere, &keys)),
            (b'P', &uri(settings, Kind::Path, Facing::Server, victims_flow(), Some(victim), Dialog::NONE, &keys)),
            (b'A', &alias),
            (b'B', &of_before),
            (b'X', &route(Facing::Both, partners_flow(), DIALOG, &others_keys)),
        ],
    )
}
