#!/usr/bin/env python3
"""Compares eval knn and eval linear with scikit-learn on the same features.

    pip install numpy scikit-learn
    ./scripts/check_evaluation.py --weights runs/cifar10/last.safetensors --train cifar10/train --test cifar10/test

k-NN: brute-force neighbours with the same votes must find the same accuracy, up to neighbours that are equally near.
Linear: logistic regression (L-BFGS to convergence, several penalties) on the features that the classifiers see with
--cached. It is another way of training, so that its accuracy is only near ours; both are printed.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

TEMPERATURE = 0.07
PENALTIES = (0.01, 0.1, 1.0, 10.0)


def run(arguments):
    return subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout


def features(args, folder, split, raw):
    """(n, C) features and (n) labels as the program writes them."""
    out = Path(folder) / f"{split}_{'raw' if raw else 'cls'}.npy"
    more = ["--blocks", args.blocks, "--raw"] if raw else []
    run([args.program, "features", getattr(args, split), "--weights", args.weights, "--out", str(out)] + more)
    rows = out.with_suffix(".csv").read_text().splitlines()[1:]
    labels = np.array([int(row.rsplit(",", 2)[1]) for row in rows])
    return np.load(out), labels


def knn_accuracy(train, train_labels, test, test_labels, k):
    k = min(k, len(train))
    search = NearestNeighbors(n_neighbors=k, algorithm="brute", metric="cosine").fit(train)
    distances, rows = search.kneighbors(test)
    votes = np.zeros((len(test), train_labels.max() + 1))
    weights = np.exp((1 - distances) / TEMPERATURE)
    for j in range(k):
        votes[np.arange(len(test)), train_labels[rows[:, j]]] += weights[:, j]
    return 100 * np.mean(votes.argmax(1) == test_labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="./dino_cuda")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--train", required=True, help="labelled images in class folders")
    parser.add_argument("--test", required=True)
    parser.add_argument("--epochs", default="100")
    parser.add_argument("--blocks", default="4", help="of which the linear classifiers see the CLS token; fewer for a shallow network")
    args = parser.parse_args()
    common = ["--weights", args.weights, "--train", args.train, "--test", args.test, "--json"]
    ours = json.loads(run([args.program, "eval", "knn"] + common))
    linear = json.loads(run([args.program, "eval", "linear", "--cached", "--blocks", args.blocks, "--epochs", args.epochs] + common))
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        train, train_labels = features(args, folder, "train", raw=False)
        test, test_labels = features(args, folder, "test", raw=False)
        print(f"{len(train)} training and {len(test)} test images")
        print("k-NN top-1 %       ours   scikit-learn")
        for row in ours["knn"]:
            theirs = knn_accuracy(train, train_labels, test, test_labels, row["k"])
            # One image more or less, where the last neighbours are equally near.
            close = abs(theirs - row["top1"]) <= 100 / len(test) + 1e-9
            failed |= not close
            print(f"  k = {row['k']:<8} {row['top1']:9.2f} {theirs:14.2f}{'' if close else '   DIFFERENT'}")

        train, train_labels = features(args, folder, "train", raw=True)
        test, test_labels = features(args, folder, "test", raw=True)
        scaler = StandardScaler().fit(train)
        print("linear top-1 %")
        for row in linear["classifiers"]:
            print(f"  ours, lr {row['lr']:<8} {row['top1']:8.2f}")
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=2000).fit(scaler.transform(train), train_labels)
            print(f"  scikit-learn, C {penalty:<5} {100 * model.score(scaler.transform(test), test_labels):4.2f}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
