"""The words that features are counted from, English and Chinese.

Four groups. An *ask* that is hard takes several dependent steps by itself (prove, debug). A *term*
belongs to a field where questions tend to be hard, and says little alone. An *easy* ask is one that
a small model does about as well as a large one (translate, greet). A *bound* word limits what an
answer may look like; every further one is a further chance to miss it.

English words are compared whole and in lower case; phrases and Chinese terms are looked for as
substrings, since Chinese needs a segmenter for anything finer.
"""

from __future__ import annotations


def _terms(table: str) -> frozenset[str]:
    return frozenset(table.split())


HARD_ASK_WORDS = _terms(
    """
    axiomatize counterexample critically debug debugging decompile derivation derive deriving
    diagonalise diagonalize disprove formalise formalize linearise linearize parallelise
    parallelize proof proofs prove proving rearchitect refactor refactoring reimplement
    thread-safe trade-off trade-offs tradeoff tradeoffs vectorise vectorize
    """
)

HARD_ASK_PHRASES = (
    "root cause",
    "race condition",
    "memory leak",
    "traceback (most recent",
    "stack trace",
    "segmentation fault",
    "does not compile",
    "doesn't compile",
    "design a ",
    "design an ",
    "design the ",
    "migration plan",
    "threat model",
    "show that ",
    "find all ",
    "differential equation",
)

HARD_TERM_WORDS = _terms(
    """
    acceleration algorithm algorithms amortization analyse analysis analyze api arbitrage
    architect architecture argue argument assess assume assuming assumption assumptions asymptotic
    asynchronous asyncio audit automaton axioms backend bash bayes bayesian benchmark bias
    bijection binary boolean bound bounds broker budget bug bugs bytes cache calculate causal
    cipher ciphertext circle circuit class clause clauses client cluster code combinations
    combinatorics compare compiler complexity compliance component compounded compute concurrency
    concurrent conditions config configs conjecture consensus consistency constraints construct
    continuous contract contractual contradiction contrast convergence convergent converges
    corollary correlation covariance cpu crash crashes critique cuda cyclic dataset deadlock
    deadlocks decrypt deduce defensible depreciation derivative derivatives determinant determine
    devise diagnose diagnosis differential dilemma distributed docker dose edge eigenvalue
    eigenvalues eigenvectors empirical empirically encrypted encryption endpoint endpoints
    enforceable enthalpy entropy enumerate equation equations equilibrium estimate estimator
    ethical evaluate exception exceptions expectation experiment exponential failure failures
    fault-tolerant feasible financial finite forecast formally friction function functions
    generics given golang gpu gradient graph guarantee guarantees hamiltonian hedging hypothesis
    hypothesize idempotent implement implementation implication implications incident index
    induction inequality infer infinite infinity integer integers integral integrals interface
    interpret interpretation invariant irrational java javascript journal jurisdiction justify
    kafka kernel knaves knights kubernetes lagrangian latency laws leak leaks lease ledger ledgers
    lemma liability lifetimes likelihood limit linear linux lock logarithm logs manifold map
    mapping maps markov matrices matrix maximise maximize mechanics mechanism mechanisms memory
    microservices migration minimise minimize mitigation mitigations module modulo molecule
    momentum mutex mysql nginx optimal optimise optimization optimize outage overflow parse parser
    partition partitions patch patient permutations philosophical pointer pointers polynomial pool
    portfolio posterior postgres postmortem precedent pressure prime primes prioritise prioritize
    probabilities probability procedure production profiling prognosis program programming propose
    protocol proxy puzzle python quadratic quantum query queue radius react reaction reconcile
    recursion recursive redis redox regex regression revenue rigorous rigorously rollback rust
    satisfies satisfy scalability scalable scenario scenarios scheduler schema script semantics
    sequence series server sharding significance significant simplify solve sql stacktrace
    statistical statute stochastic stoichiometry strategy subgraph suppose symptoms tax tensor
    terraform test tests theorem thermodynamic thread threads throughput timeout timeouts topology
    torque transaction triangle typescript valuation variance vector velocity verify vertex
    vertices voltage
    """
)

HARD_TERM_PHRASES = (
    "time complexity",
    "edge case",
    "unit test",
    "end to end",
    "explain why",
    "and why",
    "why does",
    "what is wrong",
    "what's wrong",
    "error handling",
    "pros and cons",
    "counter-argument",
    "how many ways",
    "closed form",
    "if and only if",
    "no downtime",
)

EASY_WORDS = _terms(
    """
    antonym birthday bye capital caption congratulations convert define definition goodbye grammar
    greeting haiku hello hey hi joke jokes meaning morning paraphrase poem pronounce proofread
    recipe recommend rephrase reword rewrite riddle sentiment shorten slogan spell spelling stands
    suggest summarise summarize synonym synonyms tagline thank thanks translate translation typo
    weather
    """
)

EASY_PHRASES = (
    "who is ",
    "who was ",
    "who wrote ",
    "when did ",
    "when was ",
    "where is ",
    "what does ",
    "stand for",
    "how are you",
    "how old ",
    "how tall ",
    "how do you say",
    "in one sentence",
    "tell me a ",
)

BOUND_WORDS = _terms(
    """
    both cannot consecutive each ensure every exactly except exclude including least most must
    neither never nobody nor only require required requires respectively satisfies subject unless
    within without
    """
)

STEP_PHRASES = (
    "step by step",
    "every step",
    "show your work",
    "show all steps",
    "and then",
    "for each",
    "in detail",
    "first,",
    "finally",
    "phases",
    "ranked",
)

STEPS_ZH = _terms(
    """
    分步 一步一步 逐步 每一步 逐条 逐句 详细 首先 然后 最后 分别 分阶段 并说明 并给出 并讨论
    并解释 写出过程 说明理由
    """
)

QUANTITY_PHRASES = (
    "how many",
    "how much",
    "how far",
    "how long",
    "how often",
    "what percentage",
    "what fraction",
    "probability",
)

QUANTITIES_ZH = _terms("多少 几个 几种 几次 几天 几小时 几分钟 多远 多久 百分之几 概率")

HARD_ASKS_ZH = _terms(
    """
    证明 求证 试证 推导 推出 反例 归纳法 调试 排查 根因 根本原因 竞态 内存泄漏 内存序 重构
    架构设计 系统设计 方案设计 取舍 权衡 利弊 批判性 反驳 论证 求解 微分方程 特征值 对角化 报错
    抛出 堆栈 线程安全 迁移到 取值范围 分库分表 状态转移
    """
)

HARD_TERMS_ZH = _terms(
    """
    算法 复杂度 优化 动态规划 贪心 递归 回溯 二叉树 图论 最短路 背包 并发 多线程 协程 异步 死锁
    分布式 微服务 一致性 高可用 幂等 限流 缓存 索引 事务 数据库 架构 编译器 解析器 内核 实现一个
    设计一个 方案 不停机 回滚 扩容 可用性 性能 瓶颈 异常 单元测试 边界情况 窗口函数 定理 引理 推论
    命题 充要条件 充分必要 无理数 有理数 整数解 质数 素数 同余 数列 收敛 极限 连续 导数 偏导 积分
    定积分 级数 矩阵 行列式 特征向量 向量 方程 不等式 函数 单调 零点 极值 概率 期望 方差 偏差
    贝叶斯 分布 估计量 闭式 回归 假设检验 随机 排列 组合 排法 概率分布 均衡 熵 热力学 量子 力学
    分析 评估 评价 比较 对比 论述 讨论 解释原因 为什么会 阐述 推断 判断是否 是否存在 可行 条件
    矛盾 诊断 鉴别诊断 法律风险 条款 合规 责任 判例 估值 对冲 风险 策略 审查 缓解措施 故障 日志
    修复 追上 相遇 时速 浓度 利润 共有多少种 已知 假设 设函数 设有 ，求 求其 求出 的最大值
    的最小值 通项 等差 等比 有限群 三角形 余弦 正弦 半径 面积 体积 对数 指数级 线性 二次函数 梯度
    步长 上界 下界 无穷 有限 显著 检验 数据 预算 情景 模型 预测 财务 现金流 税 线程池 队列 超时
    脚本 正则 定位 监控 内存 网络 分区 时钟 语义 溢出 测试 组件 渲染 状态 代码 程序 接口 起草 法律
    合同 冲突 限制条款 患者 症状 依据 检查 剂量 伦理 道德 哲学 真话 假话 推理 依次 差异 机制 影响
    原理 合作 实验 反应 电压 电路 速度 加速度 动量 压强 计算 设计 制定 构造 化简 配平 验证 核对
    实现 找出原因 为何 编写 公理 真值表 二进制 摩擦 弹簧 氧化还原 集群 模块 加密 密钥 协议
    问题出在 存储过程 重写 会计 分录 租赁 实证 效应 分配 约束 押韵 平仄 递归下降
    """
)

EASY_ASKS_ZH = _terms(
    """
    你好 您好 早上好 晚上好 谢谢 感谢 再见 晚安 笑话 天气 翻译 改写 润色 改得 错别字 近义词 反义词
    什么意思 是什么意思 的作者 的首都 首都是 起个名 起名 取个名 祝福 推荐 菜谱 吃什么 好玩 故事
    概括 总结 一句话 好评 差评 怎么读 怎么说 有多高 哪一年 成语 谜语 标语 口号
    """
)

BOUNDS_ZH = _terms(
    """
    必须 不得 不能 不可 至少 至多 最多 不超过 不少于 恰好 只能 只用 仅 每个 每人 每位 任意 所有
    任何 同时满足 满足 除非 要求 限制 之间 均 都是 不与 保证 支持
    """
)

# 'Certificate of employment' and the like share the characters of 'prove'.
HARMLESS_ZH = ("在职证明", "收入证明", "证明信", "证明书", "开证明", "身份证明", "离职证明")

CODE_WORDS = _terms(
    """
    await const def elif error exception fn func lambda null nullptr printf println public return
    self stderr stdout struct traceback undefined varchar void
    """
)

CODE_MARKS = (
    "();",
    ") {",
    "){",
    "};",
    "=>",
    "::",
    "!=",
    "==",
    "+=",
    "->",
    "</",
    "/>",
    "#include",
    "print(",
    "console.log(",
    "for (",
    "if (",
    "in range(",
    "(s)",
    ".get(",
    ".filter(",
    ".map(",
    " || ",
    " && ",
    "[]",
    "select *",
    "```",
    "_",
)

MATHS_MARKS = (
    r"\frac",
    r"\int",
    r"\sum",
    r"\sqrt",
    r"\lim",
    r"\begin{",
    r"\mathbb",
    r"\(",
    r"\[",
    "$$",
    " $",
    "^2",
    "^3",
    "^n",
    "^{",
    "x^",
    ")^",
    "_{",
    "_n",
    "_1",
    "_2",
    "(x",
    "(n",
    "o(1)",
    "o(log",
    "+1",
    "+ 1",
    "1/",
    "/n",
    "= ",
    "f(x)",
    "y'",
    "sin(",
    "cos(",
    "log(",
    "sqrt(",
    "²",
    "³",
    "√",
    "∑",
    "∫",
    "∞",
    "∂",
    "≤",
    "≥",
    "≡",
    "≠",
    "∀",
    "∃",
    "∈",
    "π",
)

# A turn of nothing but this opens or closes a conversation; it inherits nothing from before.
SMALL_TALK = frozenset(
    {
        "hi",
        "hello",
        "hey",
        "good morning",
        "good evening",
        "thanks",
        "thank you",
        "thanks a lot",
        "thank you very much",
        "thx",
        "ty",
        "bye",
        "goodbye",
        "good night",
        "see you",
        "great, thanks",
        "ok, thanks",
        "ok thanks",
        "cool, thanks",
        "perfect, thanks",
        "你好",
        "您好",
        "早上好",
        "晚上好",
        "谢谢",
        "谢谢你",
        "谢谢您",
        "多谢",
        "感谢",
        "好的，谢谢",
        "好的谢谢",
        "再见",
        "拜拜",
        "晚安",
    }
)
