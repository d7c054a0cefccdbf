"""Exact and near duplicates. In: part files of documents. Out: clusters, one survivor each. Next: split."""
