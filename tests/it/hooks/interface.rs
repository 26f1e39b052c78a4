//! The published interface: the document is that of the program, and both SDKs have every name.

use controller::hooks::api::openapi;

const PYTHON: &str = include_str!("../../../controller/src/hooks/sdk/maand.py");
const TYPESCRIPT: &str = include_str!("../../../controller/src/hooks/sdk/maand.ts");

/// Every name of `spec/behaviour.md` 6.5, and those that took the place of older ones.
const NAMES: &str = "allocation_id allocation_ip allocation_index is_allocation_disabled command_event command_name \
    job_name hook_event hook_name current_version new_version get_store_value get_kv_value put_job_variable \
    delete_job_variable put_job_secret delete_job_secret list_job_keys put_rollout_order get_rollout_order \
    put_deploy_order get_deploy_order list_command_demands list_hook_demands acquire_semaphore release_semaphore \
    semaphore_status find_bucket_root load_ssh run_ssh run_runner_target run_make_target get_allocation_id \
    get_allocation_ip get_allocation_index get_event get_command get_hook get_job kv_get kv_put kv_put_secret \
    get_demands";

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |text, word| text + &word[..1].to_uppercase() + &word[1..])
}

#[test]
fn both_sdks_have_every_name() {
    for name in NAMES.split_whitespace() {
        let assigned = PYTHON.lines().any(|line| !line.starts_with(' ') && line.split(" = ").any(|part| part == name));
        assert!(assigned || PYTHON.contains(&format!("\ndef {name}(")), "maand.py: {name}");
        let camel = camel(name);
        let exported = [format!("function {camel}("), format!("const {camel} ="), format!(" as {camel}")];
        let found = TYPESCRIPT
            .lines()
            .filter(|line| line.starts_with("export"))
            .any(|line| exported.iter().any(|form| line.contains(form.as_str())));
        assert!(found, "maand.ts: {camel}");
    }
}

#[test]
fn python_needs_nothing_but_its_standard_library() {
    let script = "import sys, maand\nprint([name for name in ('requests', 'urllib3') if name in sys.modules])\n";
    let bucket = super::built(1, script);
    let output = bucket.maand(&["hooks", "hook_x", "-v"]).expect(0);
    assert!(output.stderr.contains("api@w1 | []\n"), "{}", output.stderr);
}

#[test]
fn the_document_is_that_of_the_program() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api/hooks.json");
    let text = format!("{}\n", serde_json::to_string_pretty(&openapi::document()).unwrap());
    if std::env::var_os("MAAND_BLESS").is_some() {
        return std::fs::write(path, text).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == text, "docs/api/hooks.json is not what the program serves: MAAND_BLESS=1 writes it anew");
}

#[test]
fn the_reference_names_every_path_and_variable() {
    let page =
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/hook-api.md"))
            .unwrap();
    for (path, methods) in openapi::document()["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let row = format!("`{} {path}`", method.to_uppercase());
            assert!(page.contains(&row), "{row}");
        }
    }
    for name in NAMES.split_whitespace() {
        assert!(page.contains(&format!("`{name}")), "{name}");
    }
}
