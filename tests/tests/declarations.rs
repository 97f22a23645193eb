//! What is declared and what is there agree: documents, the object file, the names of metrics.

use std::{collections::BTreeSet, fs, path::PathBuf};

use observer::{commands::docs, sinks::metrics, sources::kernel::attach};
use observer_core::model::probe_id::ProbeId;
use observer_ebpf::probes;
use strum::IntoEnumIterator;

fn workspace(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn generated_docs_are_fresh() {
    type Make = fn(&str) -> String;
    let documents: [(&str, Make); 4] = [
        ("docs/metrics.md", |_| docs::metrics_md()),
        ("docs/probes.md", |_| docs::probes_md()),
        ("docs/advice.md", docs::advice_md),
        ("docs/causes.md", docs::causes_md),
    ];
    for (path, make) in documents {
        let committed = fs::read_to_string(workspace(path)).unwrap_or_default();
        let fresh = make(&committed);
        assert!(committed == fresh, "{path} is not what the declarations say: run `cargo xtask docs`");
    }
}

/// The digest of the page's sources is in the built page: as `web/build.mjs` makes it.
#[test]
fn the_built_page_is_of_these_sources() {
    use sha2::{Digest, Sha256};
    let mut names: Vec<String> = ["build.mjs", "package.json", "package-lock.json"].map(str::to_owned).into();
    for entry in fs::read_dir(workspace("web/src")).unwrap() {
        names.push(format!("src/{}", entry.unwrap().file_name().into_string().unwrap()));
    }
    names.sort();
    let mut hash = Sha256::new();
    for name in &names {
        hash.update(format!("{name}\n"));
        hash.update(fs::read(workspace("web").join(name)).unwrap());
    }
    let digest: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let page = fs::read_to_string(workspace("observer/src/http/web/page.html")).unwrap();
    assert!(
        page.contains(&digest),
        "observer/src/http/web/ is not what web/src says: in web/, npm ci && npm run build"
    );
    let files =
        ["page.html", "page.js", "page.css"].map(|name| workspace("observer/src/http/web").join(name));
    let bytes: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes < 300 << 10, "{bytes} bytes");
}

#[test]
fn every_declared_program_is_in_the_object_and_the_reverse() {
    let Some(bytes) = observer::sources::kernel::object::embedded() else {
        println!("skipped: this build has no eBPF object (cargo xtask build-ebpf)");
        return;
    };
    use object::{Object, ObjectSection, ObjectSymbol};
    let object = object::File::parse(bytes).unwrap();
    let in_object: BTreeSet<String> = object
        .symbols()
        .filter(|symbol| {
            let section = symbol.section_index().and_then(|index| object.section_by_index(index).ok());
            let kinds = ["tp_btf/", "fentry/", "fexit/", "iter/"];
            let is_program = |name: &str| kinds.iter().any(|kind| name.starts_with(kind));
            section.is_some_and(|section| section.name().is_ok_and(is_program)) && symbol.is_global()
        })
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
        .collect();
    let declared: BTreeSet<String> = attach::declared_programs().into_iter().map(str::to_owned).collect();
    assert_eq!(in_object, declared);
}

#[test]
fn the_core_knows_every_probe_by_name() {
    let declared: BTreeSet<String> = probes::ALL.iter().map(|probe| probe.name.to_owned()).collect();
    let known = ProbeId::iter().filter(|id| !matches!(id, ProbeId::Other(_)));
    assert_eq!(known.map(String::from).collect::<BTreeSet<String>>(), declared);
}

#[test]
fn every_metric_a_probe_feeds_is_declared() {
    let declared: BTreeSet<&str> = metrics::declarations().iter().map(|family| family.name).collect();
    for probe in probes::ALL {
        for feeds in probe.feeds {
            assert!(declared.contains(feeds), "probe {} feeds {feeds}, which no family declares", probe.name);
        }
    }
}

#[test]
fn metric_names_are_unique_and_say_their_unit() {
    let mut seen = BTreeSet::new();
    for family in metrics::declarations() {
        assert!(seen.insert(family.name), "{} is declared twice", family.name);
        let standard = family.name.starts_with("process_");
        assert!(family.name.starts_with("observer_") || standard, "{}", family.name);
        let counter = family.kind == observer::sinks::metrics::Kind::Counter;
        assert_eq!(counter, family.name.ends_with("_total"), "{}", family.name);
        assert!(!family.help.is_empty(), "{}", family.name);
    }
}
