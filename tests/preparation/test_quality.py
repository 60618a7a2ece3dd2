"""Who is looked at first, and why."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from cohorts import CHANNEL, SOUND, subject

from menvae.data.cache.cohort import Cohort, PreparedSubject
from menvae.data.files.findings import Finding
from menvae.preparation.intensities import ChannelIntensities
from menvae.preparation.quality import Kind, Limits, SubjectQuality, judge_cohort, meanings, robust_z


def judge(
    subjects: list[PreparedSubject], findings: tuple[Finding, ...] = (), **channels: ChannelIntensities
) -> dict[str, SubjectQuality]:
    intensities = {one.subject_id: [channels.get(one.subject_id, CHANNEL), CHANNEL] for one in subjects}
    rows = judge_cohort(Cohort(tuple(subjects), "hash", findings), None, intensities, ("t1c", "t2w"), Limits())
    return {row.subject_id: row for row in rows}


def test_every_kind_in_its_order() -> None:
    random = np.random.default_rng(0)
    many = [subject(f"z{index:02d}", solidity_total=float(random.normal(0.5, 0.02))) for index in range(30)]
    bad = [
        subject("off", replace(SOUND, tumour_off_brain=0.5, tumour_kept=0.2)),
        replace(subject("copy"), same_images=("z00",)),
        subject("cut", replace(SOUND, tumour_kept=0.41)),
        subject("cut less", replace(SOUND, tumour_kept=0.9)),
        subject("brain", replace(SOUND, brain_kept=0.8)),
        subject("shrunk", replace(SOUND, resampled_volume_mm3=1500.0)),
        subject("small", replace(SOUND, volume_mm3=64.0)),
        subject("far", solidity_total=0.1),
        subject("coreless", vol_ncr=None, sphericity_ncr=None),
        subject("odd"),
    ]
    findings = (Finding("lost", "lost-t1c.nii.gz", "is truncated", "copy it again"),)
    rows = judge(many + bad, findings, odd=ChannelIntensities(0.5, 0.01, 5.0))
    names = ["lost", "off", "copy", "cut", "cut less", "brain", "shrunk", "small", "far", "coreless", "odd"]
    assert list(rows)[:11] == names
    assert [row.verdict for row in rows.values()] == ["left out", *["look"] * 10, *["ok"] * 30]
    assert [rows[name].reasons[0].kind for name in names] == [
        *(
            Kind.FAULT,
            Kind.OFF_BRAIN,
            Kind.DUPLICATE,
            Kind.TUMOUR_CUT,
            Kind.TUMOUR_CUT,
            Kind.BRAIN_CUT,
            Kind.RESAMPLING,
            Kind.SMALL,
            Kind.OUTLIER,
        ),
        *(Kind.REGION, Kind.INTENSITY),
    ]
    assert rows["lost"].words == "lost-t1c.nii.gz is truncated: copy it again"
    assert rows["off"].words.startswith("50 % of the tumour lie where every image is 0; the box keeps 20 %")
    assert rows["copy"].words == "the same images as z00"
    assert rows["cut"].words == "the box keeps 41 % of the tumour"
    assert rows["shrunk"].words == "resampling changes the volume by \N{MINUS SIGN}25 %"
    assert rows["odd"].words == "t1c has no signal in 50 % of the voxels where some channel does"
    ok = [row.farthest for row in rows.values() if row.verdict == "ok"]
    assert ok == sorted(ok, reverse=True), "those without a reason too are ordered"
    assert list(meanings(Limits())) == sorted(set(Kind) - {Kind.NOTE}, reverse=True)


def test_limits_are_the_callers() -> None:
    one = subject("a", replace(SOUND, tumour_kept=0.97))
    cohort, intensities = Cohort((one,), "hash"), {"a": [CHANNEL]}
    for limit, verdict in ((0.98, "look"), (0.97, "ok"), (0.5, "ok")):
        (row,) = judge_cohort(cohort, None, intensities, ("t1c",), Limits(tumour_kept=limit))
        assert row.verdict == verdict


def test_robust_z_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 20_001)
    expected = (values - 3.0) / 2.0
    np.testing.assert_allclose(robust_z(values.tolist()), expected, atol=0.15)
    assert robust_z([1.0, 1.0, 1.0, 9.0]) == [0.0] * 4


def test_a_small_cohort_has_no_outliers() -> None:
    few = [subject(f"s{index}", solidity_total=0.5 + 0.01 * index) for index in range(18)]
    assert judge([*few, subject("far", solidity_total=100.0)])["far"].verdict == "ok"
    assert judge([*few, subject("one more"), subject("far", solidity_total=100.0)])["far"].verdict == "look"


def test_a_region_that_many_lack_is_only_noted() -> None:
    subjects = [subject(f"s{index}", vol_ncr=None if index < 3 else 5.0) for index in range(10)]
    rows = judge(subjects)
    assert {row.verdict for row in rows.values()} == {"ok"}
    assert rows["s0"].words == "no voxels of ncr"
    assert rows["s0"].severity == 0.0
    assert judge(subjects[1:])["s1"].verdict == "ok", "2 of 9 are more than a fifth"
    assert judge(subjects[2:])["s2"].verdict == "look"


def test_a_background_that_is_not_0_is_told_with_its_sign() -> None:
    rows = judge(
        [subject("a"), subject("b")], a=ChannelIntensities(1.0, 0.7, -1.0), b=ChannelIntensities(1.0, 0.7, 1.0)
    )
    assert rows["a"].words == "t1c has a negative background in 70 % of its non-zero voxels"
    assert rows["b"].words == "t1c has a single value in 70 % of its non-zero voxels"


def test_several_lesions_are_only_noted() -> None:
    row = judge([subject("a", replace(SOUND, second_lesion=0.3))])["a"]
    assert (row.verdict, row.words) == ("ok", "separate lesions, the second with 30 % of the tumour")


def test_notes_on_files_are_kept_and_those_on_the_box_are_not_told_twice() -> None:
    notes = (
        Finding("a", "a-seg.nii.gz", "stores integer labels as float64", "no action is needed", False),
        Finding("a", "the training box", "holds 41 % of the tumour", "enlarge it", False),
    )
    row = judge([subject("a", replace(SOUND, tumour_kept=0.41))], notes)["a"]
    assert row.words == (
        "the box keeps 41 % of the tumour; a-seg.nii.gz stores integer labels as float64: no action is needed"
    )


@pytest.mark.parametrize("volume", [0.0, 8.0])
def test_a_tumour_that_resampling_lost(volume: float) -> None:
    box = replace(SOUND, native_volume_mm3=volume, resampled_volume_mm3=0.0, volume_mm3=0.0, tumour_kept=0.0)
    row = judge([subject("a", box, vol_total=None, loc_x=None)])["a"]
    assert row.verdict == "look"
    assert math.isfinite(row.severity)


def test_a_fault_of_several_files_is_written_once() -> None:
    names = ("t1c", "t1n", "t2f", "t2w")
    findings = [
        Finding(one, f"{one}-{name}.nii.gz", "has a rim of -1024", "set it to 0")
        for one in ("a", "b")
        for name in names
    ]
    findings.append(Finding("c", "c-t1c.nii.gz", "is truncated", "copy it again"))
    rows = judge([subject("d")], tuple(findings))
    assert rows["b"].words == "b-t1c.nii.gz (and 3 more files) has a rim of -1024: set it to 0"
