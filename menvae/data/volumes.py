"""Volumes, loaded: prepared subjects, split, with targets fitted on the training subjects."""

from __future__ import annotations

from menvae import collectives
from menvae.data.dataset import EpochBatches, SplitLoader, SubjectDataset
from menvae.data.pairs import check_pairs
from menvae.data.prepare import Cohort, prepare
from menvae.data.source import Data, DataRequest, Volumes
from menvae.data.subjects import Source
from menvae.data.targets import SPLIT_COLUMNS, fit_targets, split_cohort, split_rows, subjects_of


def load_volumes(source: Source, request: DataRequest) -> Data:
    """Prepare what the cache lacks (main rank), split, fit targets on training subjects, make loaders.

    Raises:
        UserError: what is wrong with the source or with its subjects.
    """
    cohort = request.prepared
    if not isinstance(cohort, Cohort):
        with collectives.main_rank_first():
            cohort = prepare(source, request.cache, show=request.show)
    splits = split_cohort(cohort, source)
    by_split = {"train": subjects_of(cohort, splits, "train"), "val": subjects_of(cohort, splits, "val")}
    normalizer = fit_targets(by_split["train"], request.targets, request.supervision)
    patients = [subject.patient_id for subject in by_split["train"]] if source.pairs else None
    if patients is not None:
        check_pairs(patients, request.batch_size, request.num_ranks)
    loaders = {}
    for split, subjects in by_split.items():
        augmentation = request.augmentation if split == "train" else None
        dataset = SubjectDataset(
            subjects, normalizer, request.supervision, augmentation, request.seed, source.normalisation
        )
        batches = EpochBatches(
            len(subjects),
            request.batch_size,
            shuffle=split == "train",
            seed=request.seed,
            rank=request.rank,
            num_ranks=request.num_ranks,
            patients=patients if split == "train" else None,
        )
        loaders[split] = SplitLoader(dataset, batches, num_workers=request.num_workers, pin_memory=request.pin_memory)
    return Data(
        prepared=cohort,
        data_hash=cohort.data_hash,
        targets_hash=normalizer.hash,
        description=normalizer.as_dict(),
        splits=splits,
        split_columns=SPLIT_COLUMNS,
        split_rows=split_rows(cohort, splits),
        train=loaders["train"],
        val=loaders["val"],
        volumes=Volumes(cohort, normalizer, by_split["train"], source.modalities),
    )
