//! The checks of `make check` as tests, one each, so that a plain test run fails where the tree drifts.

use std::sync::LazyLock;

use waypost_tests::tree::{CHECKS, Project, borders, habits, licences, logs, packages, rules};

static PROJECT: LazyLock<Project> = LazyLock::new(|| {
    let root = waypost_tests::workspace_root().expect("the source tree");
    Project::read(&root).expect("the source tree and cargo's metadata can be read")
});

macro_rules! check {
    ($($name:ident => $findings:path;)*) => {
        $(#[test]
        fn $name() {
            let found = $findings(&PROJECT);
            assert!(found.is_empty(), "\n  {}\n", found.join("\n  "));
        })*

        #[test]
        fn no_check_is_left_out_here() {
            assert_eq!([$(stringify!($name)),*].len(), CHECKS.len());
        }
    };
}

check! {
    every_rule_has_code_and_a_test => rules::check;
    every_licence_is_allowed => licences::check;
    no_dependency_is_older_than_its_last_known_hole => packages::check_floors;
    core_and_proto_reach_no_runtime_network_or_database => packages::check_purity;
    only_the_store_names_rocksdb => borders::check_rocksdb;
    only_the_net_folder_names_libp2p => borders::check_libp2p;
    only_the_api_folder_names_tonics_server => borders::check_tonic_server;
    every_rust_file_opens_with_what_it_owns => habits::check_openings;
    no_file_outgrows_its_reader => habits::check_lengths;
    no_test_waits_for_time => habits::check_sleeps;
    every_log_line_keeps_to_the_keys => logs::check;
    nothing_names_a_home_directory => habits::check_home_paths;
}
