//! Devices that do not register, such as a voice platform: the SIP Server calls one by its address, and it calls back,
//! over TLS, TCP and UDP; over a stream, all of it uses the one connection that the proxy has opened.

use std::process::Command;
use std::time::Duration;

use crate::harness::ports::free_port;
use crate::harness::process::Process;
use crate::harness::proxy::{Proxy, Settings, is_stand_in};
use crate::harness::{DOMAIN, START_MAX, Scratch, lab};

const CALL_MAX: Duration = Duration::from_secs(20);

/// The lab as a SIP Server or a device, which takes orders on its standard input.
fn party(name: &str, proxy: &Proxy, arguments: &[&str]) -> Process {
    let certificates = &proxy.settings.certificates;
    let mut command = Command::new(lab());
    command.arg("server").args(arguments);
    command.arg("--ca").arg(&certificates.ca).arg("--cert").arg(&certificates.certificate);
    command.arg("--key").arg(&certificates.key);
    let process = Process::start(name, &command);
    process.wait_line("listening", START_MAX);
    process
}

/// A server and a device call each other; the device's counters at the end.
fn calls_both_ways(transport: &str) -> Option<String> {
    if is_stand_in() {
        return None;
    }
    let scratch = Scratch::new(&format!("device-{transport}"));
    let proxy = Proxy::start(&scratch, Settings::new(&scratch));
    let Settings { sip_port, tls_port, server_port, .. } = proxy.settings;
    let of_server = format!("udp:127.0.0.1:{server_port}");
    let to_proxy = format!("udp:127.0.0.1:{sip_port}");
    let mut server = party("the SIP Server", &proxy, &["--listen", &of_server, "--proxy-sip", &to_proxy]);
    let device_at = format!("127.0.0.2:{}", free_port());
    let of_device = format!("{transport}:{device_at}");
    let to_proxy = format!("{transport}:127.0.0.1:{}", if transport == "tls" { tls_port } else { sip_port });
    let device = ["--device", "--listen", &of_device, "--proxy-sip", &to_proxy];
    let mut device = party("the device", &proxy, &device);

    server.write_stdin(format!("dial sip:conference@{device_at};transport={transport} 50\n").as_bytes());
    server.wait_line(r#""step":"Ended""#, CALL_MAX);
    device.write_stdin(format!("dial sip:answer@{DOMAIN} 50\n").as_bytes());
    device.wait_line(r#""step":"Ended""#, CALL_MAX);
    device.write_stdin(b"stats\n");
    Some(device.wait_line(r#""stats":"#, CALL_MAX))
}

#[test]
fn a_device_over_tls_is_called_and_calls_over_one_connection() {
    if let Some(stats) = calls_both_ways("tls") {
        assert!(stats.contains(r#""connections_opened":1,"#), "{stats}");
    }
}

#[test]
fn a_device_over_tcp_is_called_and_calls_over_one_connection() {
    if let Some(stats) = calls_both_ways("tcp") {
        assert!(stats.contains(r#""connections_opened":1,"#), "{stats}");
    }
}

#[test]
fn a_device_over_udp_is_called_and_calls() {
    if let Some(stats) = calls_both_ways("udp") {
        assert!(stats.contains(r#""connections_opened":0,"#), "{stats}");
    }
}

#[test]
fn a_device_whose_certificate_names_another_address_is_not_called() {
    if is_stand_in() {
        return;
    }
    let scratch = Scratch::new("device-wrong");
    let proxy = Proxy::start(&scratch, Settings::new(&scratch));
    let Settings { sip_port, server_port, .. } = proxy.settings;
    let of_server = format!("udp:127.0.0.1:{server_port}");
    let to_proxy = format!("udp:127.0.0.1:{sip_port}");
    let mut server = party("the SIP Server", &proxy, &["--listen", &of_server, "--proxy-sip", &to_proxy]);
    // The certificate is for 127.0.0.1 and 127.0.0.2.
    let device_at = format!("127.0.0.3:{}", free_port());
    let _device = party("the device", &proxy, &["--device", "--listen", &format!("tls:{device_at}")]);
    server.write_stdin(format!("dial sip:conference@{device_at};transport=tls 50\n").as_bytes());
    server.wait_line(r#""step":"Failed(502)""#, CALL_MAX);
}
