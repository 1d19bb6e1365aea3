"""Cases that no single file makes: whole runs, faults, graphics cards and pages, with the tests that prove what happens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Proved:
    """A case, what the libraries do, the verdict, and the tests of it (file below ``tests`` and name)."""

    id: str
    what: str
    libraries: str
    verdict: str
    tests: tuple[str, ...]


def _of(case: str, what: str, libraries: str, verdict: str, *tests: str) -> Proved:
    return Proved(case, what, libraries, verdict, tests)


PROVED = [
    _of(
        "D22",
        "a name in private tags, comments and free text",
        "kept by de-identifiers",
        "in no output",
        "battery/test_cohort.py::test_no_patient_is_named_anywhere",
    ),
    _of("T03", "ids 001 and 1", "both become 1", "both kept", "unit/test_cohort.py::test_ids_001_and_1_are_both_kept"),
    _of(
        "T05a",
        "a byte order mark and line ends of Windows",
        "",
        "taken",
        "unit/test_cohort.py::test_a_table_gives_roles_covariates_and_ids_as_text",
    ),
    _of(
        "T06",
        "a cell that a spreadsheet would compute",
        "computed",
        "quoted",
        "unit/test_report.py::test_a_cell_that_a_spreadsheet_would_compute_is_quoted",
        "unit/test_export.py::test_a_table_holds_no_formula",
    ),
    _of(
        "T12", "a contrast or session that a stage is not for", "", "skipped", "unit/test_stage.py::test_a_skipped_image_goes_on_as_it_came"
    ),
    _of(
        "T14",
        "blanks, quotes and a semicolon in the dataset's path",
        "",
        "taken",
        "unit/test_cohort.py::test_a_dataset_with_odd_characters_in_its_path_works",
    ),
    _of(
        "T16",
        "a hundred subjects more in a cohort of 200",
        "",
        "in time",
        "run/test_parse.py::test_the_head_process_imports_nothing_heavy",
        "run/test_part.py::test_a_finished_cohort_a_new_hundred_and_a_replaced_file",
    ),
    _of(
        "R01",
        "SIGKILL of a job or a worker",
        "",
        "the same results",
        "kill/test_kill.py::test_a_run_that_is_killed_ends_with_the_results_of_an_undisturbed_one",
        "unit/test_stage.py::test_the_item_on_which_the_worker_dies_twice_is_crashed_and_the_rest_goes_on",
    ),
    _of(
        "R02",
        "SIGKILL of everything at random times",
        "half a file counts as done",
        "the same results",
        "kill/test_kill.py::test_a_run_that_is_killed_ends_with_the_results_of_an_undisturbed_one",
    ),
    _of(
        "R03",
        "SIGKILL of the head alone",
        "two writers in one file",
        "the same results",
        "unit/test_stage.py::test_an_orphan_that_works_on_the_same_finishes_and_nothing_is_computed_twice",
        "unit/test_stage.py::test_an_orphan_that_works_on_something_else_or_takes_too_long_is_ended_before_the_folder_is_used",
    ),
    _of(
        "R05",
        "a second run on one output",
        "`Nothing to be done`",
        "refused",
        "run/test_refusals.py::test_a_second_run_on_one_output_refuses_and_names_the_owner",
        "unit/test_run.py::test_of_several_runs_that_begin_at_once_one_owns_the_folder",
    ),
    _of(
        "R07",
        "a lock of a run that died, or of another machine",
        "",
        "taken over; refused",
        "unit/test_run.py::test_the_folders_of_a_run_that_died_are_taken_over_and_given_back",
        "unit/test_run.py::test_a_run_of_another_machine_is_not_guessed_to_be_gone",
    ),
    _of(
        "R08",
        "a full disk under results, work or scratch",
        "half a file at its final place",
        "nothing half-written",
        "unit/test_disk_full.py::test_a_full_disk_blames_no_image_and_leaves_nothing_behind",
        "unit/test_machine.py::test_a_disk_that_is_full_in_the_middle_of_a_job_ends_it_with_a_sentence_and_sets_no_image_aside",
    ),
    _of(
        "R09",
        "quota and inodes",
        "",
        "a sentence each",
        "unit/test_machine.py::test_a_full_disk_a_quota_and_inodes_have_sentences_of_their_own",
    ),
    _of(
        "R10",
        "an output that cannot be written",
        "a traceback",
        "refused",
        "unit/test_machine.py::test_a_read_only_folder_is_refused_naming_the_key",
    ),
    _of(
        "R11",
        "more memory than the job has",
        "killed, or hangs",
        "once more with more, then set aside",
        "slurm/test_slurm.py::test_a_job_above_its_memory_is_ended_by_slurm_and_passes_with_more",
        "battery/test_limits.py::test_a_file_that_wants_more_memory_than_its_job_has_is_set_aside_and_the_others_go_on",
    ),
    _of(
        "R12",
        "an item that does not end",
        "",
        "`time-limit`",
        "unit/test_stage.py::test_the_last_attempt_ends_in_time_although_an_item_does_not_and_leaves_its_record",
    ),
    _of(
        "R13",
        "preempted and queued again",
        "run twice",
        "the same results",
        "slurm/test_slurm.py::test_a_job_that_was_preempted_goes_back_into_the_queue_and_ends_there",
    ),
    _of(
        "R14",
        "a controller that is silent, a node that dies",
        "the run ends",
        "tried again",
        "unit/test_slurm.py::test_nothing_is_submitted_while_the_controller_is_silent",
        "slurm/test_slurm.py::test_a_job_of_a_node_that_died_is_run_once_more_by_slurm_and_not_by_snakemake",
    ),
    _of(
        "R16",
        "a file from the future",
        "fails at every run",
        "refused",
        "unit/test_clocks.py::test_a_time_stamp_in_the_future_is_refused_naming_the_file_and_what_to_do",
    ),
    _of(
        "R17",
        "a file that shrinks while it is read",
        "",
        "set aside",
        "unit/test_disk_full.py::test_a_file_that_shrinks_while_it_is_read_is_refused",
    ),
    _of(
        "R20",
        "whatever the umask",
        "readable by all",
        "0640 and 0750",
        "rule/test_rules.py::test_files_are_for_the_owner_and_the_group_only",
        "unit/test_export.py::test_results_are_for_the_owner_and_the_group_only",
    ),
    _of(
        "G01",
        "no GPU, device: auto or cuda",
        "",
        "CPU; refused",
        "unit/test_machine.py::test_cuda_without_a_gpu_or_a_slot_is_refused_naming_the_key",
    ),
    _of(
        "G02",
        "no memory on the GPU",
        "ends",
        "smaller blocks, then the CPU",
        "unit/test_inference.py::test_out_of_memory_halves_the_block_and_ends_on_the_cpu_and_says_so",
    ),
    _of(
        "G03",
        "half precision that changes the result",
        "NaN",
        "float32",
        "unit/test_inference.py::test_bfloat16_is_taken_only_where_what_comes_out_is_alike",
    ),
    _of("G04", "CPU and GPU", "", "alike (needs a GPU)", "unit/test_inference.py::test_on_a_gpu_networks_give_what_they_give_on_the_cpu"),
    _of(
        "G05",
        "two jobs and one GPU",
        "both",
        "one after the other",
        "unit/test_device.py::test_two_jobs_never_get_the_same_gpu_and_a_third_gets_none",
    ),
    _of(
        "S02",
        "the same scan in another orientation",
        "",
        "the same bytes",
        "unit/test_acquire.py::test_the_same_scan_stored_in_another_orientation_is_acquired_the_same",
    ),
    _of(
        "Z10",
        "writes that are not aligned to chunks",
        "lost updates",
        "the same bytes",
        "unit/test_larger_than_memory.py::test_a_stage_gives_the_same_bytes_and_measures_in_blocks",
    ),
    _of(
        "P01",
        "markup in tags, ids and reasons",
        "run by the browser",
        "shown as text",
        "browser/test_report_page.py::test_markup_in_a_reason_is_shown_as_text",
        "unit/test_report.py::test_markup_in_a_reason_stays_text",
    ),
    _of(
        "P02",
        "script in embedded data",
        "",
        "not run",
        "unit/test_report.py::test_the_security_policy_allows_this_style_and_this_script_only",
    ),
    _of("P03", "a name in every tag", "in logs and outputs", "nowhere", "battery/test_cohort.py::test_no_patient_is_named_anywhere"),
    _of(
        "P04",
        "an error whose text holds a value or a path",
        "shown",
        "type and place only",
        "unit/test_report.py::test_absolute_paths_of_the_machine_are_not_on_the_page",
    ),
    _of(
        "P05",
        "a head that was not defaced",
        "its profile in every preview",
        "no profile on the page",
        "unit/test_report_faces.py::test_no_profile_of_a_head_that_was_not_defaced_is_on_the_page",
        "rule/test_deface.py::test_the_page_shows_the_profile_of_the_defaced_head_alone",
    ),
    _of(
        "P06",
        "defacing that would take more than 5 % of the brain",
        "a brain without its front",
        "set aside",
        "unit/test_deface.py::test_more_brain_than_is_allowed_sets_the_image_aside",
    ),
    _of("P07", "everything set aside", "", "the page is there", "unit/test_report.py::test_the_report_comes_out_where_everything_failed"),
    _of(
        "P08",
        "the page without a network",
        "",
        "no request",
        "browser/test_report_page.py::test_the_page_has_no_console_error_and_asks_nothing_of_a_network",
    ),
    _of("P09", "a large cohort", "", "one small page", "unit/test_report.py::test_a_large_cohort_stays_one_small_page"),
]
