"""Lines of the bundles' READMEs that hold numbers of a paper, and where the tables hold the same ones."""

SPREAD = " +-"
# Line of a README that holds numbers of the paper -> table, row and figures in the order of the line.
MM = ["Dice", "Jaccard", "HD [voxel]", "ADB [voxel]"]
LIVER = ["VO CT", "VO MR", "overall CT", "overall MR"]
DM_ROWS = [f"dmnet_{share}" for share in (10, 30, 50, 100)]
README_LINES = [
    ("kcbac_mmwhs", "| MM-WHS CT, kCBAC-Net + DS |", [("3", "kcbac_ds", name) for name in MM]),
    (
        "kcbac_mmwhs",
        "| ISIC 2017, kCBAC-Net + DS |",
        [("2", "kcbac_ds", name) for name in ("Jaccard", "Dice", "sensitivity", "specificity")],
    ),
    (
        "kcbac_mmwhs",
        "| lymph nodes",
        [("1", "kcbac_ds", name) for name in ("IoU", "precision", "recall", "F1")],
    ),
    *(
        ("crossdomain_liver", start, [("2", row, name) for name in LIVER])
        for start, row in {
            "| Pre-BN, proposed |": "pre_bn",
            "| Pre-IN, proposed |": "pre_in",
            "| Post-BN |": "post",
            "| Post-BN without discriminator |": "post_no_can",
            "| Pre-BN without discriminator |": "no_can",
        }.items()
    ),
    (
        "dmnet_kits",
        "| DMNet | 88",
        [(table, row, "mIoU [%]") for table in ("1", "2") for row in DM_ROWS],
    ),
    *(
        ("dmnet_kits", f"| {start} |", [("ablation", f"{row}_{s}", "mIoU [%]") for s in (10, 30, 50, 100)])
        for start, row in {
            "supervised, no adversary (`ablate_supervised`)": "supervised",
            "supervised, adversary (`ablate_supervised_adv`)": "supervised_adv",
        }.items()
    ),
    *(
        (
            "m2snet_polyp",
            f"| {start} |",
            [("1", row, f"{name} {m}") for row in ("msnet", "m2snet") for m in ("mDice", "mIoU")],
        )
        for start, name in {
            "CVC-ColonDB": "ColonDB",
            "ETIS-LaribPolypDB": "ETIS",
            "Kvasir": "Kvasir",
            "CVC-300": "CVC-T",
            "CVC-ClinicDB": "ClinicDB",
        }.items()
    ),
]


ORGANS = ["Dice [%]", "ASD [voxel]"]
README_LINES += [
    ("skc_synapse", f"| {start} |", [(table, row, name + end) for name in ORGANS for end in ("", SPREAD)])
    for start, table, row in [
        ("Synapse 10 %", "s1", "skcdf_10"),
        ("Synapse 20 %", "synapse_20", "skcdf"),
        ("Synapse 40 %", "s2", "skcdf_40"),
        ("Synapse, all labels, V-Net", "s1", "vnet_full"),
    ]
]
README_LINES += [
    ("skc_synapse", f"| {start} |", [(table, row, name) for name in ORGANS])
    for start, table, row in [
        ("AMOS 2 %", "s3", "skcdf_2"),
        ("AMOS 10 %", "s4", "skcdf_10"),
        ("AMOS, all labels, V-Net", "s3", "vnet_full"),
        ("(a) local, then global", "s5", "no_balanced_head"),
        ("(b) local", "s5", "local"),
        ("(c) global; CA", "s6", "global"),
        ("(d) global, then local", "s5", "global_local"),
        ("(e) both side by side", "s5", "parallel"),
        ("baseline", "s6", "no_attention"),
        ("SA", "s6", "global_self"),
    ]
]
