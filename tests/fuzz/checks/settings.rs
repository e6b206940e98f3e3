//! A configuration text.

use hawser::config::{Config, InUse};

/// See the module.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Config::parse(&text, "fuzz.toml") {
        Err(fault) => {
            let said = fault.to_string();
            let lines = text.lines().count().max(1) + 1;
            assert!((1..=lines).contains(&(fault.line as usize)), "{said:?}: there are {lines} lines");
            assert!(said.starts_with(&format!("fuzz.toml:{}: ", fault.line)), "{said:?}");
            assert!(!said.chars().any(char::is_control), "{said:?}");
            assert!(fault.key.is_empty() || said.contains(&fault.key));
        }
        Ok(config) => is_stable(&config, &text),
    }
}

fn is_stable(config: &Config, text: &str) {
    let said = format!("{config:?}");
    let again = |text: &str| Config::parse(text, "fuzz.toml").map(|config| format!("{config:?}"));
    assert_eq!(again(text), Ok(said.clone()), "read twice it differs");
    assert_eq!(again(&format!("{text}\n# nothing\n")), Ok(said), "a comment counts");
    assert!(!config.listeners.is_empty() && !config.servers.is_empty());
    assert!(config.listeners.iter().any(|listener| listener.sip_port != 0 || listener.tls_port != 0));
    let _ = (config.serving(), config.with_own_setup().count());
    let mut in_use = InUse::new(text, "fuzz.toml").expect("it is a configuration");
    assert_eq!(in_use.take(text, "fuzz.toml"), Ok(Vec::new()), "what is in use is a change");
}
