//! `config check` and `config show`: what a `run` here would do, without running.

use serde::Serialize;

use super::args::{ConfigArgs, ConfigCommand};
use super::exit::{Exit, Failure};
use super::output::{json, line};
use super::{Context, is_root, variable};
use crate::config::{self, Settings, Shown};

#[derive(Serialize)]
struct Sound {
    ok: bool,
}

#[derive(Serialize)]
struct Setting {
    key: &'static str,
    value: toml::Value,
    from: String,
}

/// Carries out the command.
///
/// # Errors
/// Every mistake in the configuration.
pub fn config(context: &Context, command: ConfigCommand) -> Result<Exit, Failure> {
    match command {
        ConfigCommand::Check(args) => check(context, &args),
        ConfigCommand::Show(args) => show(context, &args),
    }
}

fn check(context: &Context, args: &ConfigArgs) -> Result<Exit, Failure> {
    config::load(flags(context), args.path(), is_root(), &variable)?;
    if context.json {
        json(&Sound { ok: true })?
    } else {
        line("ok")?
    }
    Ok(Exit::Done)
}

fn show(context: &Context, args: &ConfigArgs) -> Result<Exit, Failure> {
    let all = config::show(flags(context), args.path(), is_root(), &variable)?;
    for Shown { key, value, from } in all {
        if context.json {
            json(&Setting { key: key.name, value, from })?;
        } else {
            line(&format!("{} = {value}  # {from}", key.name))?;
        }
    }
    Ok(Exit::Done)
}

fn flags(context: &Context) -> Settings {
    Settings { socket: context.socket_flag.clone(), ..Settings::default() }
}
