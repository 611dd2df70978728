//! Settings by key, for `pcclSetOption`, and by environment: `PCCL_` and the key in capitals.
//!
//! `README.md` beside this crate has the table.

use std::str::FromStr;
use std::time::Duration;

use core_pccl::{Config, MasterConfig};

use crate::guard::{Failure, Outcome};

type Change = fn(&mut Config, &str) -> Result<(), String>;

/// Every key and what it changes.
const OPTIONS: &[(&str, Change)] = &[
    ("lanes", |config, value| {
        config.lanes_per_link = Some(number(value)?);
        Ok(())
    }),
    ("data_threads", |config, value| {
        config.data_threads = number(value)?;
        Ok(())
    }),
    ("listen_ports", |config, value| {
        let (first, last) = value.split_once('-').unwrap_or((value, value));
        config.listen_ports = number(first)?..=number(last)?;
        Ok(())
    }),
    ("bind", |config, value| {
        config.bind = Some(number(value)?);
        Ok(())
    }),
    ("advertised_host", |config, value| {
        config.advertised_host = Some(value.to_owned());
        Ok(())
    }),
    ("advertised_port", |config, value| {
        config.advertised_port = Some(number(value)?);
        Ok(())
    }),
    ("standby_masters", |config, value| {
        let addresses = value.split(',').map(str::trim);
        config.standby_masters = addresses
            .filter(|a| !a.is_empty())
            .map(str::to_owned)
            .collect();
        Ok(())
    }),
    ("label", |config, value| {
        config.label = value.to_owned();
        Ok(())
    }),
    ("connect_timeout_ms", |config, value| {
        config.connect_timeout = milliseconds(value)?;
        Ok(())
    }),
    ("master_grace_ms", |config, value| {
        config.master_grace = milliseconds(value)?;
        Ok(())
    }),
    ("link_timeout_ms", |config, value| {
        config.link_timeout = Some(milliseconds(value)?);
        Ok(())
    }),
    ("keepalive_interval_ms", |config, value| {
        config.keepalive_interval = milliseconds(value)?;
        Ok(())
    }),
    ("congestion_control", |config, value| {
        config.socket = config.socket.clone().congestion_control(value);
        Ok(())
    }),
    ("send_buffer_bytes", |config, value| {
        config.socket.send_buffer_bytes = Some(number(value)?);
        Ok(())
    }),
    ("receive_buffer_bytes", |config, value| {
        config.socket.receive_buffer_bytes = Some(number(value)?);
        Ok(())
    }),
    ("unsent_bytes_max", |config, value| {
        config.socket.unsent_bytes_max = Some(number(value)?);
        Ok(())
    }),
    ("user_timeout_ms", |config, value| {
        config.socket.user_timeout = Some(milliseconds(value)?);
        Ok(())
    }),
];

/// Changes one setting.
pub(crate) fn set(config: &mut Config, key: &str, value: &str) -> Outcome {
    let Some((_, change)) = OPTIONS.iter().find(|(name, _)| *name == key) else {
        let names: Vec<&str> = OPTIONS.iter().map(|(name, _)| *name).collect();
        let text = format!("no option is named `{key}`; there are {}", names.join(", "));
        return Err(Failure::argument(text));
    };
    change(config, value)
        .map_err(|reason| Failure::argument(format!("option `{key}`: `{value}`: {reason}")))
}

/// Changes what the environment names.
pub(crate) fn read_environment(config: &mut Config) -> Outcome {
    for (key, change) in OPTIONS {
        let variable = format!("PCCL_{}", key.to_uppercase());
        if let Ok(value) = std::env::var(&variable) {
            change(config, &value)
                .map_err(|reason| Failure::argument(format!("{variable}=`{value}`: {reason}")))?;
        }
    }
    Ok(())
}

/// A master's settings, which the C API has no other words for.
pub(crate) fn master() -> Result<MasterConfig, Failure> {
    let mut config = MasterConfig::default();
    let variable = "PCCL_RECOVERY_WINDOW_MS";
    if let Ok(value) = std::env::var(variable) {
        config.recovery_window = milliseconds(&value)
            .map_err(|reason| Failure::argument(format!("{variable}=`{value}`: {reason}")))?;
    }
    Ok(config)
}

fn number<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.trim()
        .parse()
        .map_err(|error: T::Err| error.to_string())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    number(text).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_is_set_and_a_wrong_one_is_named() {
        let mut config = Config::new("127.0.0.1:1");
        for (key, value) in [
            ("lanes", "12"),
            ("data_threads", "2"),
            ("listen_ports", "50000-50010"),
            ("bind", "127.0.0.1"),
            ("advertised_host", "here.example.org"),
            ("standby_masters", "two.example.org:48148, 10.0.0.3:48148"),
            ("advertised_port", "7"),
            ("label", "one"),
            ("connect_timeout_ms", "1500"),
            ("master_grace_ms", "0"),
            ("link_timeout_ms", "700"),
            ("keepalive_interval_ms", "9000"),
            ("congestion_control", "cubic"),
            ("send_buffer_bytes", "65536"),
            ("receive_buffer_bytes", "65537"),
            ("unsent_bytes_max", "4096"),
            ("user_timeout_ms", "800"),
        ] {
            let outcome = set(&mut config, key, value);
            assert!(outcome.is_ok(), "{key}: {outcome:?}");
        }
        assert_eq!(config.lanes_per_link, Some(12));
        assert_eq!(config.listen_ports, 50000..=50010);
        assert_eq!(config.master_grace, Duration::ZERO);
        assert_eq!(config.socket.congestion_control.as_deref(), Some("cubic"));
        let named = |key, value| {
            let outcome = set(&mut Config::new("127.0.0.1:1"), key, value);
            outcome.is_err_and(|failure| failure.text.contains(key))
        };
        assert!(named("lane", "1"));
        assert!(named("lanes", "many"));
        assert!(named("listen_ports", "1-x"));
        assert!(named("bind", "somewhere"));
    }
}
