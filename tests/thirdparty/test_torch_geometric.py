"""Graph batches of torch_geometric: one row is one graph."""

import lightning.pytorch as L
import pytest
import torch
from torch import nn

pytest.importorskip("torch_geometric")

from torch_geometric.data import Batch, Data
from torch_geometric.data.lightning import LightningDataset
from torch_geometric.nn import GATConv, GCNConv, global_mean_pool

from lightning_select import BatchSelection, LossReweighting
from lightning_select.batch import count_rows, take_rows
from lightning_select.errors import TrainingStepContractError
from lightning_select.scores.loss import Loss
from lightning_select.selectors.top_k import TopK
from tests.thirdparty.harness import (
    Case,
    batches_of,
    check_row_losses,
    check_selection,
    check_unit_weights,
    check_weighted_gradient,
    fit,
)

pytestmark = pytest.mark.slow


class GraphClassifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.first, self.second = GCNConv(5, 8), GATConv(8, 8)
        self.head = nn.Linear(8, 3)

    def nodes(self, graphs):
        return self.second(self.first(graphs.x, graphs.edge_index).relu(), graphs.edge_index)

    def training_step(self, graphs, batch_idx):
        logits = self.head(global_mean_pool(self.nodes(graphs), graphs.batch))
        loss = nn.functional.cross_entropy(logits, graphs.y)
        self.log("train_loss", loss, batch_size=graphs.num_graphs)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class NodeClassifier(GraphClassifier):
    def training_step(self, graphs, batch_idx):
        return nn.functional.cross_entropy(self.head(self.nodes(graphs)), graphs.node_y)


def graph(nodes):
    edges = torch.randint(0, nodes, (2, 2 * nodes))
    return Data(
        x=torch.randn(nodes, 5), edge_index=edges, y=torch.randint(0, 3, (1,)), node_y=torch.randint(0, 3, (nodes,))
    )


def batches():
    return [Batch.from_data_list([graph(nodes) for nodes in (3, 5, 4, 6, 3, 5)]) for _ in range(3)]


CASE = Case(GraphClassifier, batches)


def test_unit_weights_change_nothing():
    check_unit_weights(CASE)


def test_selection_is_training_on_the_chosen_graphs():
    check_selection(CASE)


def test_row_losses_are_those_of_graphs_alone():
    check_row_losses(CASE)


def test_weighted_gradient_is_that_of_the_weighted_loss():
    check_weighted_gradient(CASE)


def test_weights_of_one_change_nothing_for_nodes_either():
    check_unit_weights(Case(NodeClassifier, batches), terms=26)


def test_nodes_are_not_taken_for_graphs():
    with pytest.raises(TrainingStepContractError, match=r"of the module's own making \(\[26\] for 6 rows\)"):
        fit(Case(NodeClassifier, batches), BatchSelection(Loss(), TopK(), keep=0.5))


def test_graphs_in_other_forms():
    graphs = batches()[0]
    single = graphs.to_data_list()
    index = torch.tensor([4, 0])
    chosen = [single[4], single[0]]
    for form in ((graphs, graphs), (graphs, {"note": 1}), {"pair": [graphs, graphs]}, single, {"list": single}):
        assert count_rows(form) == 6
    for taken in (
        *take_rows((graphs, graphs), index),
        take_rows({"graphs": graphs, "y": torch.ones(6)}, index)["graphs"],
    ):
        assert all(torch.equal(a.x, b.x) for a, b in zip(taken.to_data_list(), chosen, strict=True))
    assert all(a is b for a, b in zip(take_rows(single, index), chosen, strict=True))


@pytest.mark.parametrize(
    ("callback", "rows"), [(LossReweighting(torch.ones_like), 4), (BatchSelection(Loss(), TopK(), keep=0.5), 2)]
)
def test_its_own_data_module(callback, rows):
    seen = []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch.num_graphs)

    dataset = [one for batch in batches_of(CASE)[:2] for one in batch.to_data_list()]
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback, Watch()],
    )
    trainer.fit(GraphClassifier(), datamodule=LightningDataset(dataset, batch_size=4))
    assert seen == [rows] * 3
