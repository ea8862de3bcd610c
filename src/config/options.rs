//! Options of a part that is named by one key and configured by the keys behind it: converters, transforms, predicates.

use tailwater_api::config::{ConfigFault, ConfigField, ConfigReader, ConfigReport, ConfigValues};

use super::nearest::nearest;

/// Reads the options `prefix*` of `values` as `fields` declare them. Faults and notes go to `report` under their full keys; an option that
/// is neither declared nor one of `others` is noted with the nearest known one.
pub(crate) fn read_options<T>(
    prefix: &str,
    values: &ConfigValues,
    fields: &'static [&'static [ConfigField]],
    others: &[&str],
    report: &mut ConfigReport,
    read: impl FnOnce(&mut ConfigReader<'_>) -> T,
) -> T {
    let options: ConfigValues = values.with_prefix(prefix).collect();
    let mut reader = ConfigReader::new(fields, &options);
    let built = read(&mut reader);
    let declared = || fields.iter().copied().flatten();
    for (option, _) in options.iter() {
        if !others.contains(&option) && !declared().any(|field| field.covers(option)) {
            let advice = nearest(option, declared().map(|field| field.name)).map(|name| format!("; did you mean {prefix}{name}?"));
            reader.note(option, format!("is not known and has no effect{}", advice.unwrap_or_default()));
        }
    }
    let found = reader.into_report();
    let full = |fault: ConfigFault| ConfigFault { key: format!("{prefix}{}", fault.key), ..fault };
    report.faults.extend(found.faults.into_iter().map(full));
    report.notes.extend(found.notes.into_iter().map(full));
    built
}
