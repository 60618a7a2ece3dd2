"""Volume, area and convex hull of the marching-cubes mesh of a binary region, without building the mesh.

Marching cubes processes one cell of 2 x 2 x 2 voxel centres at a time, and a binary region has only 256 configurations
of a cell. Cells of the same configuration contain the same triangles, so volume and area of the mesh are a histogram of
the configurations times a table. scikit-image meshes each configuration once to fill the table.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

NUM_CONFIGURATIONS: Final = 256
FULL: Final = NUM_CONFIGURATIONS - 1


# --- volume and area ------------------------------------------------------------------------------------------------


def mesh_volume_and_area(region: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> tuple[float, float]:
    """Measure the closed marching-cubes mesh of a region.

    The mesh is that of `skimage.measure.marching_cubes` at level 0.5 after padding the region by one voxel. Its
    vertices are multiples of one half, so the values differ from sums over its triangles only by float64 rounding.

    Args:
        region: [D, H, W]; everything beyond the array is outside the region.
        spacing_mm: voxel size along D, H, W in mm.

    Returns:
        Enclosed volume in mm^3, excluding cavities, and surface area in mm^2, including walls of cavities.

    Source: marching cubes of Lewiner et al. 2003 in scikit-image.

    >>> volume_mm3, area_mm2 = mesh_volume_and_area(np.ones((1, 1, 1), dtype=np.bool_), (1.0, 1.0, 1.0))
    >>> round(volume_mm3, 6), round(area_mm2, 6)  # an octahedron: 1 / 6 and the square root of 3
    (0.166667, 1.732051)
    """
    counts = _count_configurations(region)
    return float(counts @ cell_volumes()) * math.prod(spacing_mm), float(counts @ cell_areas(spacing_mm))


def _count_configurations(region: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Count the cells of each configuration [256]; corner (i, j, k) of a cell is bit 4 i + 2 j + k."""
    depth, height, width = (size + 2 for size in region.shape)
    padded = np.zeros((depth, height, width), dtype=np.uint8)
    padded[1:-1, 1:-1, 1:-1] = region
    # Shifts of the flat array need no strided views. A cell that wraps around the end of a line or plane has all its
    # corners in the padding and counts as configuration 0, which has no triangles and no volume.
    cells = padded.ravel()
    for shift, num_bits in ((1, 1), (width, 2), (width * height, 4)):
        cells = cells[:-shift] | (cells[shift:] << num_bits)
    full = cells == FULL
    # few cells lie at the surface, and bincount costs far more per element than a comparison
    counts = np.bincount(cells[~full & (cells != 0)], minlength=NUM_CONFIGURATIONS)
    counts[FULL] = np.count_nonzero(full)
    return counts


@lru_cache(maxsize=64)
def cell_areas(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> NDArray[np.float64]:
    """Return the area of the triangles in a cell of each configuration [256], in squares of the unit of ``spacing``.

    Corner (i, j, k) of a cell is bit 4 i + 2 j + k of the configuration.
    """
    configurations, _, area_vectors = _cell_triangles()
    area_vectors = area_vectors * (math.prod(spacing) / np.asarray(spacing))
    areas = np.sqrt(np.einsum("ti,ti->t", area_vectors, area_vectors))
    return _sum_by_configuration(configurations, areas)


@lru_cache(maxsize=1)
def cell_volumes() -> NDArray[np.float64]:
    """Return the part of a cell inside the mesh for each configuration [256], in voxels.

    By the divergence theorem for the position relative to the cell centre: a third of the flux through the triangles
    and through the inside part of the cell's six faces, each half a voxel from the centre. The inside parts of
    neighbouring cells share their faces, so the sum over all cells is the volume of the mesh. This requires both cells
    to agree on their common face, and they do: if two diagonal corners of a face are set, scikit-image joins them on
    either side, whatever the rest of the cell.
    """
    configurations, corners, area_vectors = _cell_triangles()
    flux = np.einsum("ti,ti->t", corners[:, 0] - 0.5, area_vectors)
    volumes = _sum_by_configuration(configurations, flux) / 3.0
    for configuration in range(NUM_CONFIGURATIONS):
        cell = _cell(configuration)
        inside_areas = [_inside_area(np.take(cell, side, axis)) for axis in range(3) for side in (0, 1)]
        volumes[configuration] += sum(inside_areas) / 6.0
    return volumes


def _inside_area(face: NDArray[np.bool_]) -> float:
    """Part of a cell face [2, 2] inside the mesh: each cut corner is a triangle of 1/8."""
    if face[0, 0] == face[1, 1] and face[0, 1] == face[1, 0] and face[0, 0] != face[0, 1]:
        return 6 / 8  # diagonal corners are joined, so the other two are cut off
    return (0.0, 1 / 8, 4 / 8, 7 / 8, 1.0)[np.count_nonzero(face)]


def _sum_by_configuration(configurations: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of the values [T] of triangles for each configuration [256]."""
    sums = np.zeros(NUM_CONFIGURATIONS)
    np.add.at(sums, configurations, values)
    return sums


@lru_cache(maxsize=1)
def _cell_triangles() -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """All triangles of all configurations in a unit cell: configuration [T], corners [T, 3, 3], area vector [T, 3].

    The length of an area vector is the triangle's area; it points out of the region.
    """
    from skimage.measure import marching_cubes  # slow to import, and every start imports this module

    configurations, corners = [], []
    for configuration in range(1, FULL):
        vertices, faces, _, _ = marching_cubes(_cell(configuration).astype(np.float32), level=0.5)  # type: ignore[no-untyped-call, unused-ignore]
        corners.append(vertices[faces].astype(np.float64))
        configurations.append(np.full(len(faces), configuration))
    triangles = np.concatenate(corners)
    edges = triangles[:, 1:] - triangles[:, :1]
    return np.concatenate(configurations), triangles, np.cross(edges[:, 1], edges[:, 0]) / 2.0


def _cell(configuration: int) -> NDArray[np.bool_]:
    """Voxels [2, 2, 2] of a configuration."""
    return (configuration >> np.arange(8) & 1).astype(np.bool_).reshape(2, 2, 2)


# --- convex hull ----------------------------------------------------------------------------------------------------

# For a line of voxels at (row, column): its two neighbours in each of four directions.
_DIRECTIONS: Final = ((0, 1), (1, 0), (1, 1), (1, -1))


def mesh_hull_volume(region: NDArray[np.bool_]) -> float:
    """Volume of the convex hull of the marching-cubes mesh of a region, in voxels.

    Exact, without building the mesh. With e_i the unit vectors in voxels, P the hull of the centres of the set voxels
    and O the octahedron of the six points e_i / 2, -e_i / 2, the hull is the Minkowski sum P + O:

    - Vertices of the mesh are v + e_i / 2 or v - e_i / 2 with v set and the voxel beyond unset: points of P + O.
      (Vertices that marching cubes adds inside some ambiguous cells are means of others.)
    - Vertices of P + O have this form with v a vertex of P; take v + e_i / 2. Where the voxel beyond is unset, it is a
      vertex of the mesh. Where it is set, v - e_i is unset, or v would lie between two set voxels and be no vertex of
      P. So the mesh has the vertices v - e_i / 2 and u + e_i / 2, with u the last voxel of the run that starts at v,
      and v + e_i / 2 lies between them.

    Volume scales with the product of the spacings, so this holds for any spacing. The volume of the sum follows from P
    alone (Steiner's formula for two bodies, by mixed volumes, Schneider 2014, section 5.1):

        V(P + O) = V(P) + sum over facets of P of area * h_O(normal) + sum over facets of O of area * h_P(normal) + V(O)

    with the support function h_K(n) = max of n . x over x in K. For a facet of P with area vector N, area * h_O is
    max |N_i| / 2. The eight facets of O have the area sqrt(3) / 8 and the normals (+-1, +-1, +-1) / sqrt(3), and V(O)
    is 1/6.

    Args:
        region: [D, H, W] with at least one set voxel.

    Returns:
        The volume in voxels.

    >>> round(mesh_hull_volume(np.ones((1, 1, 1), dtype=np.bool_)), 6)
    0.166667
    """
    from scipy.spatial import ConvexHull  # type: ignore[import-untyped, unused-ignore]

    centres = _extreme_centres(region)
    if np.linalg.matrix_rank(centres - centres[0]) < 3:  # coplanar centres: P has no facets, but the sum does
        offsets = np.concatenate((np.eye(3), -np.eye(3))) / 2.0
        return float(ConvexHull((centres[:, None] + offsets).reshape(-1, 3)).volume)
    inside = centres.mean(axis=0)
    corner, first, second = np.moveaxis((centres - inside)[_hull_triangles(centres)], 1, 0)
    area_vectors = np.cross(first - corner, second - corner) / 2.0
    hull_volume = np.abs(np.einsum("ti,ti->t", corner, area_vectors)).sum() / 3.0
    diagonals = centres @ np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
    facets_of_hull = np.abs(area_vectors).max(axis=1).sum() / 2.0
    facets_of_octahedron = np.ptp(diagonals, axis=0).sum() / 8.0  # two opposite facets at a time
    return float(hull_volume + facets_of_hull + facets_of_octahedron + 1.0 / 6.0)


def _hull_triangles(centres: NDArray[np.float64]) -> NDArray[np.intp]:
    """Triangles [T, 3] that cover the surface of the hull of integer points [N, 3] once, as rows of `centres`.

    Points are first jittered by up to 1e-8, because Qhull spends half of its time merging facets if many points are
    coplanar, as voxels are. The triangles remain valid for the original points: a triangle bounds the hull if the
    determinants that tell on which side of its plane each point lies have the same sign. They are integers, and in a
    box of 1000 voxels per side the jitter changes them by less than 1, so no sign flips (some determinants become 0,
    for planes with more than three points).
    """
    from scipy.spatial import ConvexHull  # type: ignore[import-untyped, unused-ignore]

    moves = np.random.default_rng(0).uniform(-1e-8, 1e-8, centres.shape)
    triangles: NDArray[np.intp] = ConvexHull(centres + moves).simplices
    return triangles


def _extreme_centres(region: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return set voxels [N, 3] that include all vertices of the hull of the set voxels, and few others.

    A vertex is the first or the last set voxel of its line along W. A last (first) voxel must also lie beyond the
    midpoint of the last (first) voxels of any two lines on opposite sides of its own.
    """
    occupied = region.any(axis=2)
    num_rows, num_columns, length = region.shape
    last = length - 1 - region[:, :, ::-1].argmax(axis=2)
    heights = np.stack((last, -region.argmax(axis=2)))
    nowhere = -4 * length  # so low that its midpoint with any other height is below all voxels
    heights = np.pad(np.where(occupied, heights, nowhere), ((0, 0), (1, 1), (1, 1)), constant_values=nowhere)

    def neighbour(row: int, column: int) -> NDArray[np.intp]:
        return heights[:, 1 + row : 1 + row + num_rows, 1 + column : 1 + column + num_columns]

    extreme = np.broadcast_to(occupied, (2, num_rows, num_columns)).copy()
    for row, column in _DIRECTIONS:
        extreme &= 2 * neighbour(0, 0) > neighbour(row, column) + neighbour(-row, -column)
    end, rows, columns = np.nonzero(extreme)
    along = np.where(end == 0, 1, -1) * neighbour(0, 0)[extreme]
    return np.stack((rows, columns, along), axis=1).astype(np.float64)
